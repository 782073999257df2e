//! Bit fields: the macro that turns a table into a layout, and what it rests on.

use core::ffi::c_void;
use core::ops::{Deref, DerefMut};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One field of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name, as in `mlx5_ifc.h`.
    pub name: &'static str,
    /// First bit; 0 is the most significant bit of the first byte.
    pub bit_offset: usize,
    /// Number of bits.
    pub width: usize,
}

/// A layout inside a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name of the member.
    pub name: &'static str,
    /// First bit.
    pub bit_offset: usize,
    /// The layout's own name.
    pub layout: &'static str,
    /// Size in bytes.
    pub bytes: usize,
}

/// A layout as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Name, as in `mlx5_ifc.h` without `mlx5_ifc_` and `_bits`.
    pub name: &'static str,
    /// Size in bytes, without a trailing variable array.
    pub bytes: usize,
    /// The fields of this level.
    pub fields: &'static [Field],
    /// The layouts inside.
    pub parts: &'static [Part],
}

/// A value that does not fit its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{layout}.{field}: value {value:#x} does not fit {width} bits")]
pub struct FieldError {
    /// Name of the layout.
    pub layout: &'static str,
    /// Name of the field.
    pub field: &'static str,
    /// Width of the field in bits.
    pub width: usize,
    /// The value given.
    pub value: u32,
}

/// A fixed-size layout of bit fields: plain bytes with names.
pub trait Layout:
    FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy + 'static
{
    /// Name, size, fields and parts.
    const INFO: Info;

    /// Bits that are of a field or a part are 1.
    const NAMED: &'static [u8];

    /// The first bit that is set and has no meaning. Parts have their own.
    #[must_use]
    fn reserved_bit(&self) -> Option<usize> {
        let bytes = self.as_bytes().iter().zip(Self::NAMED);
        let (at, strange) = bytes
            .map(|(byte, named)| byte & !named)
            .enumerate()
            .find(|(_, strange)| *strange != 0)?;
        Some(at * 8 + strange.leading_zeros() as usize)
    }

    /// Sees the first bytes of `bytes` as this layout; `None` when there are too few.
    #[must_use]
    fn from_slice(bytes: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(bytes).ok().map(|(layout, _)| layout)
    }

    /// As [`Layout::from_slice`], to be written.
    #[must_use]
    fn from_slice_mut(bytes: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(bytes).ok().map(|(layout, _)| layout)
    }
}

/// A mailbox at the alignment that the C calls expect.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Mailbox<T>(T);

impl<T: Layout> Mailbox<T> {
    /// Puts `layout` into a mailbox.
    #[must_use]
    pub fn new(layout: T) -> Self {
        Self(layout)
    }

    /// A mailbox of zeros, for the device to write its answer to.
    #[must_use]
    pub fn zeroed() -> Self {
        Self(T::new_zeroed())
    }

    /// Size in bytes, as the C calls want it.
    #[must_use]
    pub const fn size(&self) -> usize {
        size_of::<T>()
    }

    /// Address of the first byte.
    #[must_use]
    pub fn as_ptr(&self) -> *const c_void {
        core::ptr::from_ref(&self.0).cast()
    }

    /// Address of the first byte, to be written.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut c_void {
        core::ptr::from_mut(&mut self.0).cast()
    }
}

impl<T> Deref for Mailbox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Mailbox<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Reads `width` (at most 64) bits at bit `at`. A field of more than 57 bits starts at a byte.
pub(super) fn load(bytes: &[u8], at: usize, width: usize) -> u64 {
    let end = (at + width).div_ceil(8);
    let value = bytes[at / 8..end]
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte));
    value >> (end * 8 - at - width) & mask(width)
}

/// Writes the low `width` bits of `value` at bit `at`, leaving the rest alone.
pub(super) fn store(bytes: &mut [u8], at: usize, width: usize, value: u64) {
    let end = (at + width).div_ceil(8);
    let shift = end * 8 - at - width;
    let mut keep = !(mask(width) << shift);
    let mut set = (value & mask(width)) << shift;
    for byte in bytes[at / 8..end].iter_mut().rev() {
        *byte = *byte & keep.to_le_bytes()[0] | set.to_le_bytes()[0];
        keep >>= 8;
        set >>= 8;
    }
}

const fn mask(width: usize) -> u64 {
    u64::MAX >> (64 - width)
}

/// Whether a table is sound: fields and parts stay inside `bytes` and do not overlap, and each
/// field can be loaded.
pub(super) const fn sound(info: &Info) -> bool {
    let (fields, parts) = (info.fields, info.parts);
    let count = fields.len() + parts.len();
    let mut i = 0;
    while i < count {
        let (start, end) = extent(fields, parts, i);
        if end <= start || end > info.bytes * 8 || (end - start > 57 && start % 8 != 0) {
            return false;
        }
        let mut j = i + 1;
        while j < count {
            let (other_start, other_end) = extent(fields, parts, j);
            if start < other_end && other_start < end {
                return false;
            }
            j += 1;
        }
        i += 1;
    }
    true
}

/// The bits of a layout that are of a field or a part, as 1.
pub(super) const fn named<const BYTES: usize>(info: &Info) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let mut i = 0;
    while i < info.fields.len() + info.parts.len() {
        let (mut bit, end) = extent(info.fields, info.parts, i);
        while bit < end {
            bytes[bit / 8] |= 0x80 >> (bit % 8);
            bit += 1;
        }
        i += 1;
    }
    bytes
}

/// First bit, and the bit after the last, of the `i`-th of all fields and parts.
const fn extent(fields: &[Field], parts: &[Part], i: usize) -> (usize, usize) {
    if i < fields.len() {
        (fields[i].bit_offset, fields[i].bit_offset + fields[i].width)
    } else {
        let part = parts[i - fields.len()];
        (part.bit_offset, part.bit_offset + part.bytes * 8)
    }
}

/// Turns a table into a layout.
///
/// ```text
/// layout! {
///     /// What it is.
///     Name = "ifc_name", BYTES {
///         members { private_bytes: [u8; N], }        // flat
///         parts { head: InHeader @ 0x0, }            // public members that are layouts
///         fields { name, set_name: kind @ bit_offset; }
///     }
/// }
/// ```
///
/// `members` lists all members in memory order; those named in `parts` are public layouts, the
/// others are private bytes. Kinds: `bool`, `u8`, `u16`, `u32`, `u64`, `bits(W)` (W < 32, the
/// setter checks), `bytes(N)`.
macro_rules! layout {
    (
        $(#[$doc:meta])*
        $name:ident = $ifc:literal, $bytes:literal {
            members { $($(#[$member_doc:meta])* $vis:vis $member:ident: $member_ty:ty,)* }
            parts { $($part:ident: $part_ty:ident @ $part_at:literal;)* }
            fields {
                $($(#[$field_doc:meta])* $get:ident, $set:ident:
                    $kind:ident $(($width:literal))? @ $at:literal;)*
            }
        }
    ) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes,
            zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$member_doc])* $vis $member: $member_ty,)*
        }

        impl $name {
            /// Size in bytes.
            pub const BYTES: usize = $bytes;

            /// The fields of this level.
            pub const FIELDS: &'static [$crate::prm::Field] = &[$($crate::prm::Field {
                name: stringify!($get),
                bit_offset: $at,
                width: $crate::prm::bits::width!($kind $(($width))?),
            },)*];

            /// All bits zero.
            #[must_use]
            pub fn zeroed() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }

            $($crate::prm::bits::accessors!(
                [$(#[$field_doc])*] $ifc, $get, $set, $kind $(($width))?, $at
            );)*
        }

        impl $crate::prm::Layout for $name {
            const INFO: $crate::prm::Info = $crate::prm::Info {
                name: $ifc,
                bytes: $bytes,
                fields: Self::FIELDS,
                parts: &[$($crate::prm::Part {
                    name: stringify!($part),
                    bit_offset: $part_at,
                    layout: <$part_ty as $crate::prm::Layout>::INFO.name,
                    bytes: $part_ty::BYTES,
                },)*],
            };
            const NAMED: &'static [u8] = &$crate::prm::bits::named::<$bytes>(&Self::INFO);
        }

        const _: () = {
            assert!(size_of::<$name>() == $bytes);
            assert!($crate::prm::bits::sound(&<$name as $crate::prm::Layout>::INFO));
            $(assert!(core::mem::offset_of!($name, $part) * 8 == $part_at);)*
        };
    };
}

macro_rules! width {
    (bool) => {
        1
    };
    (u8) => {
        8
    };
    (u16) => {
        16
    };
    (u32) => {
        32
    };
    (u64) => {
        64
    };
    (bits($width:literal)) => {
        $width
    };
    (bytes($count:literal)) => {
        $count * 8
    };
}

macro_rules! accessors {
    ([$($doc:tt)*] $ifc:literal, $get:ident, $set:ident, bool, $at:literal) => {
        #[doc = concat!("Reads bit ", $at, ", `", stringify!($get), "`.")]
        ///
        $($doc)*
        #[must_use]
        pub fn $get(&self) -> bool {
            $crate::prm::bits::load(zerocopy::IntoBytes::as_bytes(self), $at, 1) != 0
        }

        #[doc = concat!("Writes `", stringify!($get), "`.")]
        pub fn $set(&mut self, value: bool) {
            let bytes = zerocopy::IntoBytes::as_mut_bytes(self);
            $crate::prm::bits::store(bytes, $at, 1, u64::from(value));
        }
    };
    ([$($doc:tt)*] $ifc:literal, $get:ident, $set:ident, bits($width:literal), $at:literal) => {
        #[doc = concat!("Reads `", stringify!($get), "`: ", $width, " bits at ", $at, ".")]
        ///
        $($doc)*
        #[must_use]
        pub fn $get(&self) -> u32 {
            const { assert!($width < 32) };
            // At most 31 bits.
            $crate::prm::bits::load(zerocopy::IntoBytes::as_bytes(self), $at, $width) as u32
        }

        #[doc = concat!("Writes `", stringify!($get), "`.")]
        ///
        /// # Errors
        #[doc = concat!("A value that does not fit ", $width, " bits; nothing is written then.")]
        pub fn $set(&mut self, value: u32) -> Result<(), $crate::prm::FieldError> {
            if value >> $width != 0 {
                return Err($crate::prm::FieldError {
                    layout: $ifc,
                    field: stringify!($get),
                    width: $width,
                    value,
                });
            }
            let bytes = zerocopy::IntoBytes::as_mut_bytes(self);
            $crate::prm::bits::store(bytes, $at, $width, u64::from(value));
            Ok(())
        }
    };
    ([$($doc:tt)*] $ifc:literal, $get:ident, $set:ident, bytes($count:literal), $at:literal) => {
        #[doc = concat!("Reads `", stringify!($get), "`: ", $count, " bytes at bit ", $at, ".")]
        ///
        $($doc)*
        #[must_use]
        pub fn $get(&self) -> [u8; $count] {
            const { assert!($at % 8 == 0) };
            let mut value = [0; $count];
            let bytes = zerocopy::IntoBytes::as_bytes(self);
            value.copy_from_slice(&bytes[$at / 8..$at / 8 + $count]);
            value
        }

        #[doc = concat!("Writes `", stringify!($get), "`.")]
        pub fn $set(&mut self, value: [u8; $count]) {
            let bytes = zerocopy::IntoBytes::as_mut_bytes(self);
            bytes[$at / 8..$at / 8 + $count].copy_from_slice(&value);
        }
    };
    ([$($doc:tt)*] $ifc:literal, $get:ident, $set:ident, $int:ident, $at:literal) => {
        #[doc = concat!("Reads `", stringify!($get), "`: `", stringify!($int), "` at bit ", $at, ".")]
        ///
        $($doc)*
        #[must_use]
        pub fn $get(&self) -> $int {
            // The load has as many bits as the type.
            $crate::prm::bits::load(
                zerocopy::IntoBytes::as_bytes(self),
                $at,
                $int::BITS as usize,
            ) as $int
        }

        #[doc = concat!("Writes `", stringify!($get), "`.")]
        pub fn $set(&mut self, value: $int) {
            let bytes = zerocopy::IntoBytes::as_mut_bytes(self);
            $crate::prm::bits::store(bytes, $at, $int::BITS as usize, u64::from(value));
        }
    };
}

pub(super) use {accessors, layout, width};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_and_width_is_independent_of_its_neighbours() {
        for width in (1..=32).chain([64]) {
            for at in (0..64).filter(|at| width < 58 || at % 8 == 0) {
                for background in [0x00, 0xff] {
                    let mut bytes = [background; 16];
                    let value = 0x9a5f_3c81_d27e_46b9 & mask(width);
                    store(&mut bytes, at, width, value);
                    assert_eq!(load(&bytes, at, width), value, "{at} {width}");
                    let bit = u64::from(background & 1);
                    for outside in (0..at).chain(at + width..128) {
                        assert_eq!(load(&bytes, outside, 1), bit, "{at} {width} {outside}");
                    }
                }
            }
        }
    }

    #[test]
    fn bit_zero_is_the_top_of_byte_zero() {
        let mut bytes = [0; 8];
        store(&mut bytes, 0, 1, 1);
        store(&mut bytes, 12, 20, 0x45678);
        assert_eq!(bytes, [0x80, 0x04, 0x56, 0x78, 0, 0, 0, 0]);
    }

    #[test]
    fn unsound_tables_are_found() {
        const PARTS: &[Part] = &[Part {
            name: "",
            bit_offset: 32,
            layout: "",
            bytes: 4,
        }];
        let check = |extents: &[(usize, usize)]| {
            let fields: Vec<_> = extents
                .iter()
                .map(|&(bit_offset, width)| Field {
                    name: "",
                    bit_offset,
                    width,
                })
                .collect();
            sound(&Info {
                name: "",
                bytes: 12,
                fields: fields.leak(),
                parts: PARTS,
            })
        };
        assert!(check(&[(0, 32), (64, 32)]));
        assert!(!check(&[(0, 8), (7, 1)]));
        assert!(!check(&[(31, 2)]));
        assert!(!check(&[(64, 33)]));
        assert!(!check(&[(0, 0)]));
    }
}
