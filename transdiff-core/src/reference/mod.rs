//! Plain f64 backend: the oracle that other backends are tested against.
