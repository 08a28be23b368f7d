//! Small integers that cannot be mixed up.

/// Declares `u32` newtypes: an index into one particular table, useless for any other.
#[macro_export]
macro_rules! id_type {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub u32);

        impl $name {
            /// The index as `usize`, to index the table it belongs to.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    )+};
}
