"""Identity-enhanced training, and the pocket world it can train on."""
