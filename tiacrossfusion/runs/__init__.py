"""Many slides in one resumable folder."""
