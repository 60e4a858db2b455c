"""Small, fully known patients to try doselabel on. None of them is a real person."""
