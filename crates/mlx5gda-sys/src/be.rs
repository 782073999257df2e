//! Big-endian integers, as the device reads and writes them.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! big_endian {
    ($(#[$doc:meta])* $name:ident, $int:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name($int);

        impl $name {
            /// Stores `value`, given in the order of this machine.
            #[inline]
            #[must_use]
            pub const fn new(value: $int) -> Self {
                Self(value.to_be())
            }

            /// The value in the order of this machine.
            #[inline]
            #[must_use]
            pub const fn get(self) -> $int {
                $int::from_be(self.0)
            }
        }

        impl From<$int> for $name {
            fn from(value: $int) -> Self {
                Self::new(value)
            }
        }

        impl From<$name> for $int {
            fn from(value: $name) -> Self {
                value.get()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.get())
            }
        }

        const _: () = assert!(size_of::<$name>() == $bytes && align_of::<$name>() == $bytes);
    };
}

big_endian!(
    /// A 16-bit big-endian integer.
    Be16, u16, 2
);
big_endian!(
    /// A 32-bit big-endian integer.
    Be32, u32, 4
);
big_endian!(
    /// A 64-bit big-endian integer.
    Be64, u64, 8
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_most_significant_first() {
        assert_eq!(Be16::new(0x0102).as_bytes(), [1, 2]);
        assert_eq!(Be32::new(0x0102_0304).as_bytes(), [1, 2, 3, 4]);
        assert_eq!(
            Be64::new(0x0102_0304_0506_0708).as_bytes(),
            [1, 2, 3, 4, 5, 6, 7, 8]
        );
    }

    #[test]
    fn values_come_back() {
        assert_eq!(Be16::new(0xfffe).get(), 0xfffe);
        assert_eq!(u32::from(Be32::from(0x8000_0001)), 0x8000_0001);
        assert_eq!(Be64::new(u64::MAX - 1).get(), u64::MAX - 1);
        assert_eq!(format!("{:?}", Be32::new(0x1f)), "0x1f");
    }
}
