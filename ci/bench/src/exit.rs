//! VM exits.
