"""Fine-tune masked diffusion language models from parquet to an audited verdict."""

import logging

# On some processors bitsandbytes proposes an optional package, which is not used here, each time it is imported.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
