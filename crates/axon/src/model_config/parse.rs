//! Reads protobuf's text format and protobuf's JSON by the description of the message.
//!
//! The description leads: a field that it does not have ends the reading, so that nesting is never deeper than the
//! description is, whatever the text says.

use std::fmt::Write as _;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Number, Value};

use super::MAX_ELEMENTS;
use super::origin::{Origin, Problem, suggestion};
use super::text::{Lexer, Syntax, Token};
use crate::error::{Echo, echo_names};

type Result<T> = std::result::Result<T, Problem>;

/// Reads the text of a message; fields that are not in it are left out. Notes in `origin` where each field is.
pub(super) fn parse(
    text: &str,
    syntax: Syntax,
    message: &MessageDescriptor,
    origin: &mut Origin,
) -> Result<Value> {
    if syntax == Syntax::Json {
        check_json(text)?;
    }
    let mut parser = Parser::new(text, syntax, origin)?;
    let fields = match syntax {
        Syntax::Text => parser.fields(message, &Token::End)?,
        Syntax::Json => {
            parser.expect('{')?;
            parser.fields(message, &Token::Symbol('}'))?
        }
    };
    Ok(Value::Object(fields))
}

/// Checks that the text is JSON at all, which the parser below is not strict about.
fn check_json(text: &str) -> Result<()> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(|_| ()).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        // Its columns count bytes, ours characters.
        let line_start: usize = text.split_inclusive('\n').take(error.line().max(1) - 1).map(str::len).sum();
        let mut offset = (line_start + error.column().saturating_sub(1)).min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        Problem::new(offset, format_args!("expected JSON: {message}"))
    })
}

struct Parser<'a, 'o> {
    lexer: Lexer<'a>,
    token: Token<'a>,
    place: usize,
    syntax: Syntax,
    origin: &'o mut Origin,
    /// The field that is read, as `input[0].dims`.
    path: String,
}

impl<'a, 'o> Parser<'a, 'o> {
    fn new(text: &'a str, syntax: Syntax, origin: &'o mut Origin) -> Result<Self> {
        let mut lexer = Lexer::new(text, syntax);
        let (token, place) = lexer.read()?;
        Ok(Self { lexer, token, place, syntax, origin, path: String::new() })
    }

    fn advance(&mut self) -> Result<Token<'a>> {
        let (token, place) = self.lexer.read()?;
        self.place = place;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn skip_if(&mut self, symbol: char) -> Result<bool> {
        let is_there = self.token == Token::Symbol(symbol);
        if is_there {
            self.advance()?;
        }
        Ok(is_there)
    }

    fn expect(&mut self, symbol: char) -> Result<()> {
        if self.skip_if(symbol)? { Ok(()) } else { Err(self.unexpected(&format!("`{symbol}`"))) }
    }

    fn unexpected(&self, expected: &str) -> Problem {
        self.problem(self.place, format_args!("expected {expected}, got {}", self.token.describe()))
    }

    fn problem(&self, place: usize, message: std::fmt::Arguments<'_>) -> Problem {
        if self.path.is_empty() {
            return Problem::new(place, message);
        }
        Problem::new(place, format_args!("{}: {message}", self.path))
    }

    /// Reads fields until `end`, which is taken.
    fn fields(&mut self, message: &MessageDescriptor, end: &Token<'_>) -> Result<Map<String, Value>> {
        let mut fields = Map::new();
        while self.token != *end {
            let (field, place) = self.field_name(message, end)?;
            let holder = self.path.len();
            if holder > 0 {
                self.path.push('.');
            }
            self.path.push_str(field.name());
            self.check_again(&field, &fields, place)?;
            self.origin.note(&self.path, place);
            self.field(&field, &mut fields)?;
            self.path.truncate(holder);
            let separated = match self.syntax {
                Syntax::Text => self.skip_if(',')? || self.skip_if(';')?,
                Syntax::Json => self.skip_if(',')?,
            };
            if !separated && self.syntax == Syntax::Json && self.token != *end {
                return Err(self.unexpected("`,` or `}`"));
            }
        }
        if self.token != Token::End {
            self.advance()?;
        }
        Ok(fields)
    }

    fn field_name(
        &mut self,
        message: &MessageDescriptor,
        end: &Token<'_>,
    ) -> Result<(FieldDescriptor, usize)> {
        let place = self.place;
        let expected = || {
            if *end == Token::End {
                "a field name".to_owned()
            } else {
                format!("a field name or {}", end.describe())
            }
        };
        let name = match (&self.token, self.syntax) {
            (Token::Name(name), Syntax::Text) => (*name).to_owned(),
            (Token::Text(name), Syntax::Json) => name.clone(),
            _ => return Err(self.unexpected(&expected())),
        };
        let mut field = message.get_field_by_name(&name);
        if field.is_none() && self.syntax == Syntax::Json {
            field = message.get_field_by_json_name(&name);
        }
        let Some(field) = field else {
            let names: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
            let hint = suggestion(&name, names.iter().map(String::as_str));
            let dot = if self.path.is_empty() { "" } else { "." };
            return Err(Problem::new(
                place,
                format_args!("{}{dot}{}: unknown field; {hint}", self.path, Echo(&name)),
            ));
        };
        self.advance()?;
        Ok((field, place))
    }

    /// Refuses what may be said once and is said again.
    fn check_again(&self, field: &FieldDescriptor, fields: &Map<String, Value>, place: usize) -> Result<()> {
        let may_repeat = self.syntax == Syntax::Text && (field.is_list() || field.is_map());
        if fields.contains_key(field.name()) && !may_repeat {
            return Err(self.problem(place, format_args!("duplicate field")));
        }
        let Some(choice) = field.containing_oneof() else { return Ok(()) };
        let other = choice.fields().find(|other| fields.contains_key(other.name()));
        other.map_or(Ok(()), |other| {
            let names = choice.fields().map(|field| field.name().to_owned()).collect::<Vec<_>>();
            let names = echo_names(names.iter().map(String::as_str));
            Err(self.problem(place, format_args!("expected only one of {names}, got `{}` too", other.name())))
        })
    }

    fn field(&mut self, field: &FieldDescriptor, fields: &mut Map<String, Value>) -> Result<()> {
        let kind = field.kind();
        let opens = matches!(self.token, Token::Symbol('{' | '<' | '['));
        let needs_no_colon = self.syntax == Syntax::Text && opens && kind.as_message().is_some();
        if !self.skip_if(':')? && !needs_no_colon {
            return Err(self.unexpected("`:`"));
        }
        if self.syntax == Syntax::Json && self.token == Token::Name("null") {
            self.advance()?;
            return Ok(());
        }
        if field.is_map() {
            let Kind::Message(entry) = &kind else { return Err(self.unexpected("a map")) };
            let map = fields.entry(field.name()).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = map else { return Err(self.unexpected("a map")) };
            return match self.syntax {
                Syntax::Text => self.each(&mut |parser| parser.entry(entry, map)),
                Syntax::Json => self.json_map(entry, map),
            };
        }
        if field.is_list() {
            let list = fields.entry(field.name()).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Err(self.unexpected("a list")) };
            if self.syntax == Syntax::Json && self.token != Token::Symbol('[') {
                return Err(self.unexpected("`[`"));
            }
            let holder = self.path.len();
            return self.each(&mut |parser| {
                if list.len() >= MAX_ELEMENTS {
                    return Err(parser
                        .problem(parser.place, format_args!("expected at most {MAX_ELEMENTS} elements")));
                }
                let _ = write!(parser.path, "[{}]", list.len());
                parser.origin.note(&parser.path, parser.place);
                list.push(parser.value(&kind)?);
                parser.path.truncate(holder);
                Ok(())
            });
        }
        let value = self.value(&kind)?;
        fields.insert(field.name().to_owned(), value);
        Ok(())
    }

    /// Calls `read` for each element of `[a, b]`, or for one that stands alone.
    fn each(&mut self, read: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        if !self.skip_if('[')? {
            return read(self);
        }
        if self.skip_if(']')? {
            return Ok(());
        }
        loop {
            read(self)?;
            if self.skip_if(']')? {
                return Ok(());
            }
            if !self.skip_if(',')? {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
    }

    /// An entry of a map as the text format has it, `{ key: "name" value: ... }`.
    fn entry(&mut self, entry: &MessageDescriptor, map: &mut Map<String, Value>) -> Result<()> {
        let place = self.place;
        let mut fields = self.message(entry)?;
        let key = match fields.remove("key") {
            Some(Value::String(key)) => key,
            Some(key) => key.to_string(),
            None => return Err(self.problem(place, format_args!("expected a key"))),
        };
        let value = match fields.remove("value") {
            Some(value) => value,
            None if entry.map_entry_value_field().kind().as_message().is_some() => Value::Object(Map::new()),
            None => Value::String(String::new()),
        };
        self.insert(map, key, value, place)
    }

    fn json_map(&mut self, entry: &MessageDescriptor, map: &mut Map<String, Value>) -> Result<()> {
        self.expect('{')?;
        while !self.skip_if('}')? {
            let place = self.place;
            let Token::Text(key) = self.advance()? else { return Err(self.unexpected("a string")) };
            let is_number = entry.map_entry_key_field().kind() == Kind::Uint64;
            if is_number && key.parse::<u64>().is_err() {
                return Err(
                    self.problem(place, format_args!("expected an integer from 0, got {}", Echo(&key)))
                );
            }
            self.expect(':')?;
            let value = self.value(&entry.map_entry_value_field().kind())?;
            self.insert(map, key, value, place)?;
            self.skip_if(',')?;
        }
        Ok(())
    }

    fn insert(&self, map: &mut Map<String, Value>, key: String, value: Value, place: usize) -> Result<()> {
        if map.contains_key(&key) {
            return Err(self.problem(place, format_args!("duplicate key {}", Echo(&key))));
        }
        if map.len() >= MAX_ELEMENTS {
            return Err(self.problem(place, format_args!("expected at most {MAX_ELEMENTS} keys")));
        }
        map.insert(key, value);
        Ok(())
    }

    fn message(&mut self, message: &MessageDescriptor) -> Result<Map<String, Value>> {
        let end = match (&self.token, self.syntax) {
            (Token::Symbol('{'), _) => '}',
            (Token::Symbol('<'), Syntax::Text) => '>',
            _ => return Err(self.unexpected("`{`")),
        };
        self.advance()?;
        self.fields(message, &Token::Symbol(end))
    }

    fn value(&mut self, kind: &Kind) -> Result<Value> {
        match kind {
            Kind::Message(message) => self.message(message).map(Value::Object),
            Kind::Enum(choices) => self.choice(choices),
            Kind::Bool => self.bool(),
            Kind::String | Kind::Bytes => self.string(),
            Kind::Float | Kind::Double => self.float(),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => self.integer(i32::MIN.into(), i32::MAX.into()),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => self.integer(i64::MIN.into(), i64::MAX.into()),
            Kind::Uint32 | Kind::Fixed32 => self.integer(0, u32::MAX.into()),
            Kind::Uint64 | Kind::Fixed64 => self.integer(0, u64::MAX.into()),
        }
    }

    fn string(&mut self) -> Result<Value> {
        let Token::Text(mut text) = self.token.clone() else { return Err(self.unexpected("a string")) };
        self.advance()?;
        while let (Token::Text(more), Syntax::Text) = (&self.token, self.syntax) {
            text.push_str(more);
            self.advance()?;
        }
        Ok(Value::String(text))
    }

    fn bool(&mut self) -> Result<Value> {
        let value = match (&self.token, self.syntax) {
            (Token::Name("true"), _) | (Token::Name("True" | "t") | Token::Number("1"), Syntax::Text) => true,
            (Token::Name("false"), _) | (Token::Name("False" | "f") | Token::Number("0"), Syntax::Text) => {
                false
            }
            _ => return Err(self.unexpected("true or false")),
        };
        self.advance()?;
        Ok(Value::Bool(value))
    }

    fn choice(&mut self, choices: &EnumDescriptor) -> Result<Value> {
        let by_name = match (&self.token, self.syntax) {
            (Token::Name(name), Syntax::Text) => Some((*name).to_owned()),
            (Token::Text(name), Syntax::Json) => Some(name.clone()),
            _ => None,
        };
        let names: Vec<_> = choices.values().map(|value| value.name().to_owned()).collect();
        let value = match &by_name {
            Some(name) => choices.get_value_by_name(name),
            None => match &self.token {
                Token::Number(number) => number.parse().ok().and_then(|number| choices.get_value(number)),
                _ => None,
            },
        };
        let Some(value) = value else {
            let hint = suggestion(by_name.as_deref().unwrap_or_default(), names.iter().map(String::as_str));
            return Err(self.problem(self.place, format_args!("{hint}; got {}", self.token.describe())));
        };
        let value = value.name().to_owned();
        self.advance()?;
        Ok(Value::String(value))
    }

    fn integer(&mut self, least: i128, most: i128) -> Result<Value> {
        let place = self.place;
        let is_negative = self.skip_if('-')?;
        // Protobuf's JSON prints integers of 64 bits as strings, and reads them.
        let digits = match (&self.token, self.syntax) {
            (Token::Number(digits), _) => (*digits).to_owned(),
            (Token::Text(digits), Syntax::Json) if most > i32::MAX.into() && !is_negative => digits.clone(),
            _ => return Err(self.unexpected(&format!("an integer from {least} to {most}"))),
        };
        let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
        let octal = digits.strip_prefix('0').filter(|digits| !digits.is_empty());
        let number = match (hexadecimal, octal) {
            (Some(digits), _) if self.syntax == Syntax::Text => i128::from_str_radix(digits, 16),
            (None, Some(digits)) if self.syntax == Syntax::Text => i128::from_str_radix(digits, 8),
            _ => digits.parse(),
        };
        let number = number.ok().map(|number| if is_negative { -number } else { number });
        let number = number.filter(|number| (least..=most).contains(number));
        let value = number.and_then(|number| {
            let small = i64::try_from(number).ok().map(Number::from);
            small.or_else(|| u64::try_from(number).ok().map(Number::from))
        });
        let Some(value) = value else {
            let sign = if is_negative { "-" } else { "" };
            return Err(self.problem(
                place,
                format_args!(
                    "expected an integer from {least} to {most}, got {}",
                    Echo(&format!("{sign}{digits}"))
                ),
            ));
        };
        self.advance()?;
        Ok(Value::Number(value))
    }

    fn float(&mut self) -> Result<Value> {
        let place = self.place;
        let is_negative = self.skip_if('-')?;
        let Token::Number(digits) = self.token else { return Err(self.unexpected("a number")) };
        let plain = if self.syntax == Syntax::Text { digits.trim_end_matches(['f', 'F']) } else { digits };
        let number = plain.parse::<f64>().ok().filter(|number| number.abs() <= f32::MAX.into());
        let value = number.and_then(|number| Number::from_f64(if is_negative { -number } else { number }));
        let Some(value) = value else {
            return Err(self.problem(place, format_args!("expected a finite number, got {}", Echo(digits))));
        };
        self.advance()?;
        Ok(Value::Number(value))
    }
}
