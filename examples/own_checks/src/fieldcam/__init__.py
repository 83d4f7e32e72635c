"""Models for a camera with little memory."""
