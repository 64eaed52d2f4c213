//! The replicated control log in production: openraft with in-memory storage behind a port. openraft types stay inside.
