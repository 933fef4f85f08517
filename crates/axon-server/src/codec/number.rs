//! Numbers as JSON writes them, and their values as tensor elements.
//!
//! Most values are exact after one multiplication or division; the rest go through the standard library, so
//! that every value is the one nearest to its text.

use std::ops::RangeInclusive;

use half::{bf16, f16};
use synapse::Element;

use super::scan::Fault;

/// The most digits whose value always fits `u64`.
const MAX_DIGITS: usize = 19;

/// The powers of ten that are exact in binary64.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// A number that follows JSON's grammar: ± `mantissa` × 10^`exponent`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    negative: bool,
    /// The digits without the point; wrong when there are more than [`MAX_DIGITS`].
    mantissa: u64,
    digits: usize,
    exponent: i64,
    /// Written without point and exponent.
    integral: bool,
    /// The byte after it.
    pub end: usize,
}

/// Reads the number that begins at `start`.
#[inline]
pub(super) fn scan(bytes: &[u8], start: usize) -> Result<Number, Fault> {
    let mut at = start;
    let negative = bytes.get(at) == Some(&b'-');
    at += usize::from(negative);
    let (whole, mut mantissa) = (at, 0);
    at = digits(bytes, at, &mut mantissa);
    let mut count = at - whole;
    if count == 0 {
        return Err(Fault { at, expected: "a digit" });
    }
    if count > 1 && bytes.get(whole) == Some(&b'0') {
        return Err(Fault { at: whole + 1, expected: "no digit after a leading 0" });
    }
    let (mut exponent, mut integral) = (0, true);
    if bytes.get(at) == Some(&b'.') {
        let fraction = at + 1;
        at = digits(bytes, fraction, &mut mantissa);
        if at == fraction {
            return Err(Fault { at, expected: "a digit" });
        }
        count += at - fraction;
        exponent = -i64::try_from(at - fraction).unwrap_or(i64::MAX);
        integral = false;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let (power, end) = scan_exponent(bytes, at + 1)?;
        exponent = exponent.saturating_add(power);
        (at, integral) = (end, false);
    }
    Ok(Number { negative, mantissa, digits: count, exponent, integral, end: at })
}

/// Adds the digits from `at` on to `mantissa`; returns where they end.
#[inline]
fn digits(bytes: &[u8], mut at: usize, mantissa: &mut u64) -> usize {
    while let Some(&byte @ b'0'..=b'9') = bytes.get(at) {
        *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
        at += 1;
    }
    at
}

/// Reads the power of ten after its `e`, with where it ends; one that is out of any range is only large.
fn scan_exponent(bytes: &[u8], mut at: usize) -> Result<(i64, usize), Fault> {
    let negative = bytes.get(at) == Some(&b'-');
    at += usize::from(matches!(bytes.get(at), Some(b'-' | b'+')));
    let (start, mut power) = (at, 0_i64);
    while let Some(&byte @ b'0'..=b'9') = bytes.get(at) {
        power = (power * 10 + i64::from(byte - b'0')).min(i64::from(u32::MAX));
        at += 1;
    }
    if at == start {
        return Err(Fault { at, expected: "a digit" });
    }
    Ok((if negative { -power } else { power }, at))
}

impl Number {
    /// True with a minus sign before anything but 0.
    pub fn is_negative(self) -> bool {
        self.negative && (self.mantissa != 0 || self.digits > MAX_DIGITS)
    }

    /// True when it is written without point and exponent.
    pub fn is_integral(self) -> bool {
        self.integral
    }

    /// The value, when it is written as an integer and fits; `text` is the number's own.
    pub fn to_u64(self, text: &str) -> Option<u64> {
        u64::from_number(&self, text)
    }

    /// The absolute value within 4 units in the last place of a binary64, and exactly rounded when `mantissa` is
    /// at most 2^53; `None` when it is not that easy.
    #[inline]
    fn magnitude(&self) -> Option<f64> {
        if self.digits > MAX_DIGITS {
            return None;
        }
        let power = *POWERS.get(usize::try_from(self.exponent.unsigned_abs()).ok()?)?;
        #[expect(clippy::cast_precision_loss, reason = "one rounding, which the callers know of")]
        let mantissa = self.mantissa as f64;
        Some(if self.exponent < 0 { mantissa / power } else { mantissa * power })
    }

    #[inline]
    fn to_f64(self, text: &str) -> Option<f64> {
        const EXACT: u64 = 1 << f64::MANTISSA_DIGITS;
        match self.magnitude() {
            Some(value) if self.mantissa <= EXACT => Some(if self.negative { -value } else { value }),
            _ => text.parse().ok().filter(|value: &f64| value.is_finite()),
        }
    }

    #[inline]
    fn to_f32(self, text: &str) -> Option<f32> {
        // The bits of a binary64 that a normal binary32 does not have. Where they are not within a few units of a
        // half, the nearest binary32 is the same for all values that near, the exact one among them.
        const DROPPED: u64 = (1 << (f64::MANTISSA_DIGITS - f32::MANTISSA_DIGITS)) - 1;
        const HALF: u64 = DROPPED.div_ceil(2);
        const MARGIN: u64 = 8;
        // Between the smallest magnitude other than 0 that gets here, 1e-22, and this all values are normal.
        const LARGE: f64 = 3e38;
        let easy = |&value: &f64| {
            value < LARGE && ((value.to_bits() & DROPPED).abs_diff(HALF) > MARGIN || value == 0.0)
        };
        if let Some(value) = self.magnitude().filter(easy) {
            #[expect(clippy::cast_possible_truncation, reason = "the rounding that is wanted")]
            let value = value as f32;
            return Some(if self.negative { -value } else { value });
        }
        text.parse().ok().filter(|value: &f32| value.is_finite())
    }

    /// A binary32 whose nearest neighbour in any narrower type is the number's own: rounded to odd.
    fn to_odd_f32(self, text: &str) -> Option<f32> {
        let exact = self.to_f64(text)?;
        #[expect(clippy::cast_possible_truncation, reason = "an infinity is refused by the callers")]
        let nearest = exact as f32;
        let bits = nearest.to_bits();
        if f64::from(nearest).to_bits() == exact.to_bits() || bits & 1 == 1 || nearest.is_infinite() {
            return Some(nearest);
        }
        // The other neighbour is the odd one.
        let away = f64::from(nearest).abs() < exact.abs();
        Some(f32::from_bits(if away { bits + 1 } else { bits - 1 }))
    }
}

/// A value of floating point that JSON has no number for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Special {
    Nan,
    Infinity,
    NegativeInfinity,
}

impl Special {
    pub const ALL: [Self; 3] = [Self::Nan, Self::Infinity, Self::NegativeInfinity];

    /// The text that some writers take for JSON.
    pub fn text(self) -> &'static [u8] {
        match self {
            Self::Nan => b"NaN",
            Self::Infinity => b"Infinity",
            Self::NegativeInfinity => b"-Infinity",
        }
    }
}

/// A tensor element that JSON writes as a number.
pub(super) trait Scalar: Element {
    /// The element that is `special`; `None` for an integer.
    fn from_special(_special: Special) -> Option<Self> {
        None
    }

    /// The element nearest to the number, whose own `text` this is; `None` when it has none.
    fn from_number(number: &Number, text: &str) -> Option<Self>;

    /// What a number must be to have one.
    fn expected() -> String;
}

fn expected_integer<T: std::fmt::Display>(range: &RangeInclusive<T>) -> String {
    format!("expected integer from {} to {}", range.start(), range.end())
}

macro_rules! unsigned {
    ($($type:ty),*) => { $(
        impl Scalar for $type {
            #[inline]
            fn from_number(number: &Number, text: &str) -> Option<Self> {
                if !number.integral {
                    None
                } else if number.digits > MAX_DIGITS {
                    text.parse().ok()
                } else if number.negative && number.mantissa != 0 {
                    None
                } else {
                    Self::try_from(number.mantissa).ok()
                }
            }

            fn expected() -> String {
                expected_integer(&(Self::MIN..=Self::MAX))
            }
        }
    )* };
}

macro_rules! signed {
    ($($type:ty),*) => { $(
        impl Scalar for $type {
            #[inline]
            fn from_number(number: &Number, _text: &str) -> Option<Self> {
                // More digits than that are out of range of every signed type.
                if !number.integral || number.digits > MAX_DIGITS {
                    return None;
                }
                let value = i128::from(number.mantissa);
                Self::try_from(if number.negative { -value } else { value }).ok()
            }

            fn expected() -> String {
                expected_integer(&(Self::MIN..=Self::MAX))
            }
        }
    )* };
}

macro_rules! floating {
    ($($type:ty, $convert:expr);* $(;)?) => { $(
        impl Scalar for $type {
            #[inline]
            fn from_number(number: &Number, text: &str) -> Option<Self> {
                let convert: fn(Number, &str) -> Option<Self> = $convert;
                convert(*number, text)
            }

            fn from_special(special: Special) -> Option<Self> {
                Some(match special {
                    Special::Nan => Self::NAN,
                    Special::Infinity => Self::INFINITY,
                    Special::NegativeInfinity => Self::NEG_INFINITY,
                })
            }

            fn expected() -> String {
                format!("expected number from {:e} to {:e}", Self::MIN, Self::MAX)
            }
        }
    )* };
}

unsigned!(u8, u16, u32, u64);
signed!(i8, i16, i32, i64);
floating! {
    f32, Number::to_f32;
    f64, Number::to_f64;
    f16, |number, text| number.to_odd_f32(text).map(f16::from_f32).filter(|value| value.is_finite());
    bf16, |number, text| number.to_odd_f32(text).map(bf16::from_f32).filter(|value| value.is_finite());
}
