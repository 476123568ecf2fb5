"""Speed, measured side by side: against an earlier revision, and against other libraries."""
