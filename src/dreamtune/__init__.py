"""Fine-tune masked diffusion language models from parquet to an audited verdict."""
