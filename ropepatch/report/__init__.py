"""What people read: documents in short, terminal tables and plots."""
