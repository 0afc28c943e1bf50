//! Invariant: an index is refused, or it is exactly what encoding it gives, its frames lie in their files, and plans keep their
//! promises.
#![no_main]

atomos_fuzz::laws!(Index);
