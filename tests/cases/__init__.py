"""The cases: one module for each proof."""
