"""What is trained and evaluated, a folder for each task."""
