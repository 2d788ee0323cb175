"""The names that code outside of the project may rely on; import everything else from the modules."""

from dreamtune.device.deferred import bitsandbytes as _bitsandbytes  # noqa: F401, before PEFT imports it
from dreamtune.model.loading import load_model as load_model
from dreamtune.model.logits import token_logits as token_logits
