//! JSON strings, read and written.
//!
//! **Source:** RFC 8259, section 7.

use std::borrow::Cow;

use super::scan::Fault;

/// What a lone half of a surrogate pair is not.
pub(super) const SURROGATE_PAIR: &str = "a surrogate pair";

/// A part of a string's value.
enum Piece<'a> {
    Run(&'a str),
    Escaped(char),
}

/// Reads the string whose quote is at `start`; returns its value and the byte after it.
pub(super) fn read(text: &str, start: usize) -> Result<(Cow<'_, str>, usize), Fault> {
    let end = plain_end(text.as_bytes(), start + 1);
    if text.as_bytes().get(end) == Some(&b'"') {
        return Ok((Cow::Borrowed(text.get(start + 1..end).unwrap_or_default()), end + 1));
    }
    let mut value = String::new();
    let end = pieces(text, start, |piece| match piece {
        Piece::Run(run) => value.push_str(run),
        Piece::Escaped(character) => value.push(character),
    })?;
    Ok((Cow::Owned(value), end))
}

/// Checks the string whose quote is at `start`; returns the byte after it.
pub(super) fn skip(text: &str, start: usize) -> Result<usize, Fault> {
    pieces(text, start, |_| {})
}

fn pieces<'a>(text: &'a str, start: usize, mut piece: impl FnMut(Piece<'a>)) -> Result<usize, Fault> {
    let bytes = text.as_bytes();
    let mut at = start + 1;
    loop {
        let end = plain_end(bytes, at);
        if end > at {
            piece(Piece::Run(text.get(at..end).unwrap_or_default()));
        }
        match bytes.get(end) {
            Some(b'"') => return Ok(end + 1),
            Some(b'\\') => {
                let (character, after) = escape(bytes, end)?;
                piece(Piece::Escaped(character));
                at = after;
            }
            Some(_) => return Err(Fault { at: end, expected: "an escape for a control character" }),
            None => return Err(Fault { at: end, expected: "the end of a string" }),
        }
    }
}

/// Reads the escape whose backslash is at `start`; returns the character and the byte after it.
fn escape(bytes: &[u8], start: usize) -> Result<(char, usize), Fault> {
    let short = match bytes.get(start + 1) {
        Some(&plain @ (b'"' | b'\\' | b'/')) => char::from(plain),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode_escape(bytes, start),
        _ => return Err(Fault { at: start + 1, expected: "one of `\"\\/bfnrtu`" }),
    };
    Ok((short, start + 2))
}

/// Reads the one or two escapes of a character by its number.
fn unicode_escape(bytes: &[u8], start: usize) -> Result<(char, usize), Fault> {
    const LENGTH: usize = r"\u0000".len();
    let first = unit(bytes, start + 2)?;
    let next = start + LENGTH;
    let high = (0xd800..0xdc00).contains(&first);
    let (units, end) = if high && bytes.get(next..).is_some_and(|rest| rest.starts_with(br"\u")) {
        (&[first, unit(bytes, next + 2)?][..], next + LENGTH)
    } else {
        (&[first][..], next)
    };
    match char::decode_utf16(units.iter().copied()).next() {
        Some(Ok(character)) => Ok((character, end)),
        _ => Err(Fault { at: start, expected: SURROGATE_PAIR }),
    }
}

/// Reads the four digits at `start`.
fn unit(bytes: &[u8], start: usize) -> Result<u16, Fault> {
    let mut unit = 0;
    for at in start..start + 4 {
        let digit = bytes.get(at).and_then(|&byte| char::from(byte).to_digit(16));
        let Some(digit) = digit.and_then(|digit| u16::try_from(digit).ok()) else {
            return Err(Fault { at, expected: "a hexadecimal digit" });
        };
        unit = unit << 4 | digit;
    }
    Ok(unit)
}

/// The first byte from `start` on that ends a run of plain characters: a quote, a backslash, a control character.
fn plain_end(bytes: &[u8], start: usize) -> usize {
    let rest = bytes.get(start..).unwrap_or_default();
    let (chunks, tail) = rest.as_chunks::<8>();
    for (index, &chunk) in chunks.iter().enumerate() {
        let special = special_bytes(u64::from_le_bytes(chunk));
        if special != 0 {
            return start + index * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let special = tail.iter().position(|&byte| matches!(byte, b'"' | b'\\' | ..=0x1f));
    start + (rest.len() - tail.len()) + special.unwrap_or(tail.len())
}

/// The high bit of the first of eight bytes that ends a run, perhaps with later ones; 0 when none does.
///
/// **Source:** Anderson, "Bit Twiddling Hacks", "Determine if a word has a byte less than n".
fn special_bytes(chunk: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = ONES << 7;
    let less = |bytes: u64, than: u8| bytes.wrapping_sub(ONES * u64::from(than)) & !bytes;
    let control = less(chunk, 0x20);
    let quote = less(chunk ^ (ONES * u64::from(b'"')), 1);
    let backslash = less(chunk ^ (ONES * u64::from(b'\\')), 1);
    (control | quote | backslash) & HIGH
}

/// Appends `text` to `json` as a string, with its quotes.
pub(super) fn write(json: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut at = 0;
    json.push(b'"');
    loop {
        let end = plain_end(bytes, at);
        json.extend_from_slice(bytes.get(at..end).unwrap_or_default());
        let Some(&special) = bytes.get(end) else { break };
        write_escape(json, special);
        at = end + 1;
    }
    json.push(b'"');
}

fn write_escape(json: &mut Vec<u8>, special: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let short = match special {
        b'"' | b'\\' => special,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            json.extend_from_slice(b"\\u00");
            json.extend([special >> 4, special & 15].map(|digit| DIGITS[usize::from(digit)]));
            return;
        }
    };
    json.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_special_byte_is_found_wherever_it_is() {
        for special in [b'"', b'\\', 0, b'\n', 0x1f] {
            for length in 0..40 {
                // What comes before is of every other kind: plain, next to a special one, not ASCII.
                for plain in [b'a', b'!', b'#', b' ', b']', 0x80, 0xff, 0xa2] {
                    let mut bytes = vec![plain; length];
                    bytes.extend([special, b'"', 0, b'x']);
                    assert_eq!(plain_end(&bytes, 0), length);
                    assert_eq!(plain_end(&bytes, length.min(3)), length);
                    assert_eq!(plain_end(&bytes[..length], 0), length);
                }
            }
        }
        assert_eq!(plain_end(b"abc", 7), 7);
    }

    #[test]
    fn strings_read_back() {
        let check = |text: &str| {
            let mut json = Vec::new();
            write(&mut json, text);
            let json = String::from_utf8(json).unwrap();
            assert_eq!(read(&json, 0).unwrap(), (Cow::Borrowed(text), json.len()));
            assert_eq!(skip(&json, 0).unwrap(), json.len());
            assert!(!json.contains(char::is_control), "{json}");
        };
        for character in (0..0x300).chain(0xff00..0x1_0100).filter_map(char::from_u32) {
            for before in ["", "1234567", "12345678"] {
                let text = format!("{before}{character}");
                if !('\u{7f}'..='\u{9f}').contains(&character) {
                    check(&text);
                }
            }
        }
        check("");
        check("\"\\\n\0\u{1f}\t\r plain");
    }
}
