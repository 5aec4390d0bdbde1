//! Tests of the portable core.
