"""The offline spine (build) and the immutable directory that it makes (bundle)."""
