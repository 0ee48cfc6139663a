"""Asking servers for images: img2dataset with our opener, its limits, and the process that runs it."""
