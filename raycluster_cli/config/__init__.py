"""Configuration files: TOML in, plain values of the model out."""
