"""One file per dataset: each turns raw files into drafts, and knows nothing of output."""
