//! A bottle of namespaces from start to end, by the staged program.
