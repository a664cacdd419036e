"""Bundled arrays, local directories and tensorflow-datasets behind one interface."""
