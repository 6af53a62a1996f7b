"""Files of trained weights: this project's and public ones."""
