//! One line of the log: the time, the level, a message and fields; as text or as a JSON object.
//!
//! Text has fields as `name=value`, and a value in quotes where it has a space, a quote or an equals sign. In both forms
//! control characters, and those that change the direction of what is shown, are written as escapes.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use tracing::Level;
use tracing::field::{Field, Visit};

/// The longest line, in bytes; what goes on is left away.
const MAX_LINE: usize = 16 << 10;

/// A line in the making.
pub(crate) struct Line {
    text: String,
    is_json: bool,
    /// Fields of text come behind the message, wherever it comes.
    fields: String,
}

impl Line {
    /// Begins a line of now.
    pub fn new(level: Level, is_json: bool) -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut text = String::with_capacity(160);
        if is_json {
            text.push_str("{\"time\":\"");
            push_time(&mut text, since_1970);
            let _ = write!(text, "\",\"level\":\"{level}\"");
        } else {
            push_time(&mut text, since_1970);
            match colour(level) {
                Some(colour) => {
                    let _ = write!(text, " \x1b[{colour}m{level:>5}\x1b[0m");
                }
                None => {
                    let _ = write!(text, " {level:>5}");
                }
            }
        }
        Self { text, is_json, fields: String::new() }
    }

    /// What the line says.
    pub fn message(&mut self, message: &str) {
        if self.is_json {
            self.json("message", message);
        } else {
            self.text.push(' ');
            push_escaped(&mut self.text, message);
        }
    }

    /// A field.
    pub fn field(&mut self, name: &str, value: &str) {
        if self.is_json {
            self.json(name, value);
            return;
        }
        let _ = write!(self.fields, " {name}=");
        if value.is_empty() || value.contains([' ', '"', '=']) {
            self.fields.push('"');
            push_escaped(&mut self.fields, &value.replace('\\', "\\\\").replace('"', "\\\""));
            self.fields.push('"');
        } else {
            push_escaped(&mut self.fields, value);
        }
    }

    /// A field that needs no quotes: a number or a truth.
    pub fn bare(&mut self, name: &str, value: impl fmt::Display) {
        let _ = if self.is_json {
            write!(self.text, ",\"{name}\":{value}")
        } else {
            write!(self.fields, " {name}={value}")
        };
    }

    /// A time in milliseconds.
    pub fn milliseconds(&mut self, name: &str, duration: Duration) {
        self.bare(name, format_args!("{:.3}", duration.as_secs_f64() * 1e3));
    }

    fn json(&mut self, name: &str, value: &str) {
        self.text.push(',');
        push_json(&mut self.text, name);
        self.text.push(':');
        push_json(&mut self.text, value);
    }

    /// The line and its end.
    pub fn end(self) -> String {
        let Self { mut text, is_json, fields } = self;
        text.push_str(&fields);
        if is_json {
            text.push('}');
        }
        text.push('\n');
        text
    }
}

/// How a level looks where somebody looks.
fn colour(level: Level) -> Option<u8> {
    static IS_TERMINAL: OnceLock<bool> = OnceLock::new();
    let is_terminal = *IS_TERMINAL.get_or_init(|| std::io::stderr().is_terminal());
    is_terminal.then_some(match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    })
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message(&text),
            name => self.field(name, &text),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message(value),
            name => self.field(name, value),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field.name(), value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.bare(field.name(), value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.bare(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field.name(), value);
    }
}

/// What a terminal or a program could take for more than a character: controls, line ends, changes of direction.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// As much of `text` as one line has room for.
fn bounded(text: &str) -> &str {
    match text.char_indices().find(|(at, _)| *at >= MAX_LINE) {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

fn push_escaped(into: &mut String, text: &str) {
    for character in bounded(text).chars() {
        if is_unsafe(character) {
            into.extend(character.escape_default());
        } else {
            into.push(character);
        }
    }
}

/// A JSON string. **Source:** RFC 8259, section 7.
fn push_json(into: &mut String, text: &str) {
    into.push('"');
    for character in bounded(text).chars() {
        match character {
            '"' | '\\' => into.extend(['\\', character]),
            '\n' => into.push_str("\\n"),
            '\r' => into.push_str("\\r"),
            '\t' => into.push_str("\\t"),
            _ if is_unsafe(character) => {
                // None of them is beyond what four digits can say.
                let _ = write!(into, "\\u{:04x}", u32::from(character));
            }
            _ => into.push(character),
        }
    }
    into.push('"');
}

/// The time in UTC, to the microsecond. **Source:** RFC 3339; days to a date as in Howard Hinnant's "chrono-Compatible
/// Low-Level Date Algorithms", `civil_from_days`.
fn push_time(into: &mut String, since_1970: Duration) {
    let seconds = since_1970.as_secs();
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let micros = since_1970.subsec_micros();
    let _ = write!(into, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(is_json: bool, fill: impl FnOnce(&mut Line)) -> String {
        let mut line = Line::new(Level::WARN, is_json);
        fill(&mut line);
        line.end()
    }

    #[test]
    fn a_time_is_that_of_utc() {
        let check = |seconds, expected: &str| {
            let mut text = String::new();
            push_time(&mut text, Duration::new(seconds, 1_234_567));
            assert_eq!(text, format!("{expected}.001234Z"));
        };
        check(0, "1970-01-01T00:00:00");
        check(951_782_399, "2000-02-28T23:59:59");
        check(951_782_400, "2000-02-29T00:00:00");
        check(951_868_800, "2000-03-01T00:00:00");
        check(1_735_689_599, "2024-12-31T23:59:59");
        check(4_107_542_400, "2100-03-01T00:00:00");
    }

    #[test]
    fn text_has_the_message_first_and_quotes_where_they_are_needed() {
        let text = line(false, |line| {
            line.field("model", "m");
            line.field("cause", "a \"b\" \\ c=d");
            line.field("empty", "");
            line.bare("rows", 3);
            line.message("it failed");
        });
        let (_, rest) = text.split_once("Z ").unwrap();
        assert_eq!(rest, " WARN it failed model=m cause=\"a \\\"b\\\" \\\\ c=d\" empty=\"\" rows=3\n");
    }

    #[test]
    fn json_is_an_object() {
        let text = line(true, |line| {
            line.message("it \"failed\"\n\u{1b}[2J\u{202e}");
            line.field("model", "m\r\n{}");
            line.bare("rows", 3);
            line.milliseconds("total_ms", Duration::from_micros(1500));
        });
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["message"], "it \"failed\"\n\u{1b}[2J\u{202e}");
        assert_eq!((&value["model"], &value["rows"]), (&"m\r\n{}".into(), &3.into()));
        assert_eq!(value["total_ms"], 1.5);
        assert!(text.ends_with("}\n") && text.trim_end().chars().all(|character| !is_unsafe(character)));
    }

    #[test]
    fn a_line_stays_one_line() {
        let forged = "a\r\n2026-01-01T00:00:00Z ERROR forged\u{2028}\u{85}\u{1b}[31m\u{202e}\0";
        for is_json in [false, true] {
            let text = line(is_json, |line| {
                line.message(forged);
                line.field("id", forged);
            });
            let inside = text.strip_suffix('\n').unwrap();
            assert!(!inside.contains(is_unsafe), "{inside:?}");
        }
    }

    #[test]
    fn a_line_has_a_longest() {
        let text = line(false, |line| line.message(&"é".repeat(MAX_LINE)));
        assert!(text.len() < MAX_LINE + 100);
    }
}
