//! The words of protobuf's text format, and of JSON, which are almost the same.
//!
//! **Source:** the language specification of protobuf's text format; RFC 8259.

use super::origin::Problem;
use crate::error::Echo;

/// A word of the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A name, as `max_batch_size` or `true`.
    Name(&'a str),
    /// What begins with a digit or a dot.
    Number(&'a str),
    /// A string, its escapes resolved.
    Text(String),
    /// A character that stands for itself.
    Symbol(char),
    /// Nothing is left.
    End,
}

impl Token<'_> {
    /// The word as a message says that it came.
    pub fn describe(&self) -> String {
        match self {
            Self::Name(name) | Self::Number(name) => Echo(name).to_string(),
            Self::Text(text) => format!("the string {}", Echo(text)),
            Self::Symbol(symbol) => format!("`{symbol}`"),
            Self::End => "the end of the text".to_owned(),
        }
    }
}

/// Which of the two is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    Text,
    Json,
}

/// Splits a text into words.
pub(super) struct Lexer<'a> {
    text: &'a str,
    offset: usize,
    syntax: Syntax,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str, syntax: Syntax) -> Self {
        Self { text, offset: 0, syntax }
    }

    /// The next word and where it begins.
    pub fn read(&mut self) -> Result<(Token<'a>, usize), Problem> {
        self.skip_blanks();
        let place = self.offset;
        let Some(first) = self.rest().chars().next() else { return Ok((Token::End, place)) };
        let token = match first {
            'a'..='z' | 'A'..='Z' | '_' => {
                Token::Name(self.take(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
            }
            '0'..='9' | '.' => Token::Number(self.take_number()),
            '"' => self.take_string('"', place)?,
            '\'' if self.syntax == Syntax::Text => self.take_string('\'', place)?,
            '{' | '}' | '[' | ']' | ',' | ':' | '-' => self.symbol(first),
            '<' | '>' | ';' if self.syntax == Syntax::Text => self.symbol(first),
            '\u{feff}' => return Err(Problem::new(place, "expected a field name, got a byte order mark")),
            _ => {
                let mut buffer = [0; 4];
                let text = Echo(first.encode_utf8(&mut buffer)).to_string();
                return Err(Problem::new(place, format_args!("expected a field or a value, got {text}")));
            }
        };
        Ok((token, place))
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.offset..).unwrap_or_default()
    }

    fn symbol(&mut self, symbol: char) -> Token<'a> {
        self.offset += symbol.len_utf8();
        Token::Symbol(symbol)
    }

    fn skip_blanks(&mut self) {
        loop {
            self.take(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c));
            if self.syntax == Syntax::Json || !self.rest().starts_with('#') {
                return;
            }
            self.take(|byte| byte != b'\n');
        }
    }

    /// The bytes from here that `belongs` is true for; it must be false for a part of a character.
    fn take(&mut self, belongs: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.bytes().position(|byte| !belongs(byte)).unwrap_or(rest.len());
        self.offset += length;
        rest.get(..length).unwrap_or_default()
    }

    /// A number and whatever letters stick to it, to be refused as a whole.
    fn take_number(&mut self) -> &'a str {
        let rest = self.rest();
        let is_hex = rest.starts_with("0x") || rest.starts_with("0X");
        let mut before = 0;
        let mut belongs = |byte: u8| {
            let sign = matches!(byte, b'+' | b'-') && matches!(before, b'e' | b'E') && !is_hex;
            before = byte;
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') || sign
        };
        let length = rest.bytes().position(|byte| !belongs(byte)).unwrap_or(rest.len());
        self.offset += length;
        rest.get(..length).unwrap_or_default()
    }

    fn take_string(&mut self, quote: char, place: usize) -> Result<Token<'a>, Problem> {
        let body = self.rest().get(1..).unwrap_or_default();
        let mut is_escaped = false;
        let mut end = None;
        for (index, byte) in body.bytes().enumerate() {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'\n' | 0 => break,
                _ if byte == quote as u8 => {
                    end = Some(index);
                    break;
                }
                _ => {}
            }
        }
        let Some(length) = end else {
            return Err(Problem::new(
                place,
                format_args!("expected the string to end with `{quote}` in its line"),
            ));
        };
        self.offset += length + 2;
        let invalid = |what: &str| Problem::new(place, format_args!("expected {what} in the string"));
        let text = match self.syntax {
            Syntax::Json => {
                let quoted = self.text.get(self.offset - length - 2..self.offset).unwrap_or_default();
                serde_json::from_str(quoted).map_err(|_| invalid("valid escapes"))?
            }
            Syntax::Text => {
                let bytes = unescape(body.get(..length).unwrap_or_default());
                let bytes = bytes.ok_or_else(|| invalid("valid escapes"))?;
                String::from_utf8(bytes).map_err(|_| invalid("UTF-8"))?
            }
        };
        Ok(Token::Text(text))
    }
}

/// Resolves the escapes of the text format; `None` for one that it does not have.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (plain, escape) = (rest.get(..at)?, rest.get(at + 1..)?);
        bytes.extend_from_slice(plain.as_bytes());
        let kind = escape.chars().next()?;
        let digits = |from: usize, most: usize, radix: u32| {
            let digits =
                escape.chars().skip(from).take(most).take_while(|digit| digit.is_digit(radix)).count();
            let number = u32::from_str_radix(escape.get(from..from + digits)?, radix).ok()?;
            Some((number, from + digits))
        };
        let (byte, length) = match kind {
            'x' | 'X' => digits(1, 2, 16)?,
            '0'..='7' => digits(0, 3, 8)?,
            'u' | 'U' => {
                let width = if kind == 'u' { 4 } else { 8 };
                let (number, length) = digits(1, width, 16)?;
                let character = char::from_u32(number).filter(|_| length == 1 + width)?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = escape.get(length..)?;
                continue;
            }
            'a' => (0x07, 1),
            'b' => (0x08, 1),
            'f' => (0x0c, 1),
            'n' => (u32::from(b'\n'), 1),
            'r' => (u32::from(b'\r'), 1),
            't' => (u32::from(b'\t'), 1),
            'v' => (0x0b, 1),
            '\\' | '\'' | '"' | '?' => (u32::from(kind), 1),
            _ => return None,
        };
        bytes.push(u8::try_from(byte).ok()?);
        rest = escape.get(length..)?;
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_resolved_and_others_refused() {
        let check = |text: &str, expected: Option<&[u8]>| {
            assert_eq!(unescape(text).as_deref(), expected, "{text}");
        };
        check(r#"a\n\t\\\"\'\?"#, Some(b"a\n\t\\\"'?"));
        check(r"\x41\X4z\101\0z", Some(b"A\x04zA\0z"));
        check(r"\u00e9\U0001F600", Some("é😀".as_bytes()));
        check("é", Some("é".as_bytes()));
        for text in [r"\", r"\q", r"\xg", r"\777", r"\u00e", r"\ud800", r"\é"] {
            check(text, None);
        }
    }
}
