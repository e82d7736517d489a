"""Docker's nouns and policies; owns all changing state."""
