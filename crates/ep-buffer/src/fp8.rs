//! Rows in FP8: E4M3 values with one scale for each group of 128 channels.
//!
//! What the GPU computes, bit for bit. A group is scaled so that its largest magnitude becomes
//! 448, the largest number of E4M3 (sign, 4 bits of exponent with bias 7, 3 bits of mantissa, no
//! infinities; OCP 8-bit floating point specification, revision 1.0). A value is the decoded byte
//! times the scale.
//!
//! ```
//! use ep_buffer::fp8::{self, GROUP, ScaleFormat};
//! use half::bf16;
//!
//! let row = [bf16::from_f32(-3.0); GROUP];
//! let (scale, bytes) = fp8::quantize_group(&row, ScaleFormat::F32);
//! assert_eq!(fp8::decode(bytes[0]), -448.0);
//! assert!((fp8::decode(bytes[0]) * scale + 3.0).abs() < 1e-6);
//! ```

use half::bf16;

/// Channels that share a scale.
pub const GROUP: usize = 128;
/// The largest finite number of E4M3.
pub const MAX: f32 = 448.0;
/// A group is scaled as if its largest magnitude were at least this, so that zeros have a scale.
pub const MIN_AMAX: f32 = 1e-4;
/// The byte for what is not a number (with the sign bit it is 0xff).
pub const NAN: u8 = 0x7f;

/// How scales are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScaleFormat {
    /// As they are.
    #[default]
    F32,
    /// Rounded up to a power of two, of which one byte holds the exponent, biased by 127
    /// (UE8M0 of the OCP microscaling formats).
    Ue8m0,
}

/// The E4M3 number nearest to `value`; of two that are equally near the one with an even
/// mantissa. Beyond 448 it is 448 with the sign of `value`, for infinities too. What is not a
/// number stays so, with its sign.
#[must_use]
pub fn encode(value: f32) -> u8 {
    let bits = value.to_bits();
    let sign = (bits >> 24 & 0x80) as u8;
    let magnitude = f32::from_bits(bits & 0x7fff_ffff);
    if magnitude.is_nan() {
        return sign | NAN;
    }
    if magnitude >= MAX {
        return sign | 0x7e;
    }
    // The exponent of the number's last place: 3 below its own, but not below that of the
    // subnormal numbers, which are multiples of 2^-9.
    let exponent = (magnitude.to_bits() >> 23) as i32 - 127;
    let place = exponent.max(-6) - 3;
    // Both factors are powers of two, so nothing is rounded before the rounding that is meant.
    let multiple = (magnitude * power_of_two(-place)).round_ties_even() as i32;
    // A multiple of 8 and more has an implicit one; 16 carries into the exponent by itself.
    sign | ((place + 9) * 8 + multiple) as u8
}

/// The value of an E4M3 number.
#[must_use]
pub fn decode(byte: u8) -> f32 {
    let magnitude = byte & 0x7f;
    let value = match (magnitude >> 3, magnitude & 7) {
        _ if magnitude == NAN => f32::NAN,
        (0, mantissa) => f32::from(mantissa) * power_of_two(-9),
        (exponent, mantissa) => f32::from(8 + mantissa) * power_of_two(i32::from(exponent) - 10),
    };
    if byte & 0x80 == 0 { value } else { -value }
}

/// `2^exponent`, for exponents of normal numbers.
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// Scale and bytes of one group: with the largest magnitude `amax`, at least [`MIN_AMAX`], the
/// scale is `amax * (1 / 448)` and each value is multiplied by `448 / amax`, all in `f32`. With
/// [`ScaleFormat::Ue8m0`] the scale is the next power of two that is not less, and values are
/// multiplied by its exact reciprocal.
///
/// What is not a number counts for nothing in `amax` and stays so in the bytes. An infinity
/// makes the scale infinite: it becomes NaN, finite values become 0, and nothing of the group
/// can be had back (0 times infinity).
#[must_use]
pub fn quantize_group(x: &[bf16; GROUP], format: ScaleFormat) -> (f32, [u8; GROUP]) {
    // `max` of a number and what is none is the number.
    let largest = |amax: f32, x: &bf16| amax.max(x.to_f32().abs());
    let amax = x.iter().fold(MIN_AMAX, largest);
    let mut scale = amax * (1.0 / MAX);
    let mut inverse = MAX / amax;
    if format == ScaleFormat::Ue8m0 {
        scale = from_ue8m0(to_ue8m0(scale));
        inverse = 1.0 / scale;
    }
    (scale, x.map(|x| encode(x.to_f32() * inverse)))
}

/// The exponent of the next power of two that is not less than a positive `scale`, as a byte.
/// Infinity gives 255, which stands for what is not a number.
#[must_use]
pub fn to_ue8m0(scale: f32) -> u8 {
    let bits = scale.to_bits() & 0x7fff_ffff;
    let up = u32::from(bits & 0x007f_ffff != 0);
    ((bits >> 23) + up).min(255) as u8
}

/// The scale that a byte stands for; 255 gives infinity, as [`quantize_group`] has it, and 0,
/// which no group has, gives 0.
#[must_use]
pub fn from_ue8m0(byte: u8) -> f32 {
    f32::from_bits(u32::from(byte) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All finite numbers of E4M3 from their definition, with their bytes.
    fn numbers() -> Vec<(f64, u8)> {
        let finite = (0..=255u8).filter(|byte| byte & 0x7f != NAN);
        let value = |byte: u8| {
            let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
            let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
            let magnitude = match exponent {
                0 => mantissa / 8.0 * 2f64.powi(-6),
                _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
            };
            sign * magnitude
        };
        finite.map(|byte| (value(byte), byte)).collect()
    }

    /// The nearest of all numbers, with the sign of `value`; of two the even one.
    fn nearest(numbers: &[(f64, u8)], value: f32) -> u8 {
        let same_sign = |byte: u8| (byte & 0x80 != 0) == value.is_sign_negative();
        let wanted = f64::from(value.clamp(-MAX, MAX));
        let candidates = numbers.iter().filter(|(_, byte)| same_sign(*byte));
        let order = |(number, byte): &&(f64, u8)| ((number - wanted).abs(), byte & 1);
        let best = candidates.min_by(|a, b| {
            let (a, b) = (order(a), order(b));
            a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
        });
        best.unwrap().1
    }

    #[test]
    fn every_byte_has_its_value_and_comes_back() {
        for (value, byte) in numbers() {
            assert_eq!(f64::from(decode(byte)), value, "{byte:#x}");
            assert_eq!(decode(byte).is_sign_negative(), byte & 0x80 != 0);
            assert_eq!(encode(decode(byte)), byte);
        }
        for byte in [NAN, NAN | 0x80] {
            assert!(decode(byte).is_nan());
            assert_eq!(encode(decode(byte)), byte);
        }
    }

    #[test]
    fn every_bf16_goes_to_the_nearest() {
        let numbers = numbers();
        for bits in 0..=u16::MAX {
            let value = bf16::from_bits(bits).to_f32();
            let expected = if value.is_nan() {
                NAN | (bits >> 8) as u8 & 0x80
            } else {
                nearest(&numbers, value)
            };
            assert_eq!(encode(value), expected, "{value:e}");
        }
    }

    #[test]
    fn powers_of_two_are_rounded_up_and_kept() {
        assert_eq!(to_ue8m0(1.0), 127);
        assert_eq!(to_ue8m0(1.0f32.next_up()), 128);
        assert_eq!(to_ue8m0(1.0f32.next_down()), 127);
        assert_eq!(to_ue8m0(f32::INFINITY), 255);
        for byte in 1..255 {
            assert_eq!(to_ue8m0(from_ue8m0(byte)), byte);
        }
        // One of 1.75 * 2^n has 2^n as its scale exactly.
        let group = [bf16::from_f32(448.0 * 4.0); GROUP];
        let (scale, bytes) = quantize_group(&group, ScaleFormat::Ue8m0);
        assert_eq!((scale, bytes[0]), (4.0, 0x7e));
    }

    #[test]
    fn what_is_no_number_is_as_described() {
        let mut group = [bf16::ONE; GROUP];
        group[3] = bf16::NAN;
        let (scale, bytes) = quantize_group(&group, ScaleFormat::F32);
        assert_eq!((scale, bytes[0]), (1.0 / MAX, 0x7e));
        assert!(decode(bytes[3]).is_nan());
        group[4] = bf16::NEG_INFINITY;
        for format in [ScaleFormat::F32, ScaleFormat::Ue8m0] {
            let (scale, bytes) = quantize_group(&group, format);
            assert_eq!(scale, f32::INFINITY);
            assert_eq!(bytes[0], 0);
            assert!(decode(bytes[4]).is_nan());
        }
        let (scale, bytes) = quantize_group(&[bf16::NEG_ZERO; GROUP], ScaleFormat::F32);
        assert_eq!((scale, bytes), (MIN_AMAX * (1.0 / MAX), [0x80; GROUP]));
    }

    proptest! {
        #[test]
        fn any_f32_goes_to_the_nearest(bits in any::<u32>(), small in -500f32..500.0) {
            let numbers = numbers();
            for value in [f32::from_bits(bits), small, small / 4096.0] {
                if !value.is_nan() {
                    prop_assert_eq!(encode(value), nearest(&numbers, value), "{:e}", value);
                }
            }
        }

        /// A value that is decoded again is off by half of the last place of E4M3 at most: 2^-4
        /// of itself, or 2^-10 scales where numbers are subnormal.
        #[test]
        fn groups_come_back(
            words in proptest::array::uniform32(any::<[u16; 4]>()),
            magnitude in -30i32..30,
        ) {
            let factor = 2f32.powi(magnitude);
            let unit = |word: u16| f32::from(word.cast_signed()) / 32768.0;
            let words = words.as_flattened();
            let group: [bf16; GROUP] =
                std::array::from_fn(|i| bf16::from_f32(unit(words[i]) * factor));
            let amax = group.iter().map(|x| x.to_f32().abs()).fold(MIN_AMAX, f32::max);
            for format in [ScaleFormat::F32, ScaleFormat::Ue8m0] {
                let (scale, bytes) = quantize_group(&group, format);
                if format == ScaleFormat::Ue8m0 {
                    prop_assert_eq!(from_ue8m0(to_ue8m0(scale)), scale);
                    prop_assert!(scale * MAX >= amax * (1.0 - f32::EPSILON));
                    prop_assert!(scale / 2.0 * MAX <= amax);
                } else {
                    prop_assert_eq!(scale, amax * (1.0 / 448.0));
                }
                for (x, byte) in group.iter().zip(bytes) {
                    let (x, back) = (x.to_f32(), decode(byte) * scale);
                    let bound = (x.abs() / 16.0).max(scale / 1024.0) * 1.0001;
                    prop_assert!((x - back).abs() <= bound, "{x} came back as {back}");
                }
            }
        }
    }
}
