//! Values of options: their kinds, and reading and writing them as Go's `flag` and `time` packages do.
//!
//! Texts of errors are Go's, because they are what etcd prints. Start with [`Kind::read`].

use super::url::{self, Url};

/// How the text of an option becomes a [`Value`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `1 t T TRUE true True` or `0 f F FALSE false False`; as a flag, the value may be left out.
    Bool,
    /// A signed 64-bit number in Go's notation (`0x10`, `1_000`).
    Int,
    /// An unsigned 64-bit number.
    Uint,
    /// An unsigned 32-bit number.
    Uint32,
    /// A Go duration such as `1m30s`.
    Duration,
    /// Comma separated URLs, sorted and without repetition. The empty text leaves the default.
    Urls,
    /// As `Urls`, or `*`, or empty: the origins of CORS.
    Origins,
    /// Comma separated texts, sorted and without repetition.
    Strings,
    /// Comma separated texts in their order.
    List,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// `Name=bool` pairs. Given twice, the pairs add up.
    Gates,
    /// Anything; as a flag, the value may be left out.
    Any,
}

/// The value of an option, checked on its own but not yet against others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Text`], [`Kind::Choice`], [`Kind::Gates`] and [`Kind::Any`].
    Text(String),
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Int`].
    Int(i64),
    /// Of [`Kind::Uint`] and [`Kind::Uint32`].
    Uint(u64),
    /// Of [`Kind::Duration`], in nanoseconds.
    Duration(i64),
    /// Of [`Kind::Urls`].
    Urls(Vec<Url>),
    /// Of [`Kind::Origins`], [`Kind::Strings`] and [`Kind::List`].
    List(Vec<String>),
}

impl Kind {
    /// Whether a flag of this kind may stand without a value.
    pub fn is_switch(self) -> bool {
        matches!(self, Kind::Bool | Kind::Any)
    }

    /// Reads a value as a flag or a variable gives it. The error is what Go puts after `invalid value "…" for …: `.
    pub fn read(self, text: &str) -> Result<Value, String> {
        match self {
            Kind::Text | Kind::Any => Ok(Value::Text(text.to_owned())),
            Kind::Bool => read_bool(text)
                .map(Value::Bool)
                .ok_or_else(|| "parse error".to_owned()),
            Kind::Int => read_int(text)
                .map(Value::Int)
                .map_err(|e| e.flag_text().to_owned()),
            Kind::Uint => read_uint(text)
                .map(Value::Uint)
                .map_err(|e| e.flag_text().to_owned()),
            Kind::Uint32 => read_uint32(text),
            Kind::Duration => read_duration(text)
                .map(Value::Duration)
                .map_err(|_| "parse error".to_owned()),
            Kind::Urls => url::read_list(text).map(Value::Urls),
            Kind::Origins => read_origins(text),
            Kind::Strings => Ok(Value::List(split_sorted(text))),
            Kind::List => Ok(Value::List(split(text))),
            Kind::Choice(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::Choice(_) => Err("invalid value".to_owned()),
            Kind::Gates => {
                super::gates::FeatureGates::default().set(text)?;
                Ok(Value::Text(text.to_owned()))
            }
        }
    }

    /// What the documentation calls the kind.
    pub fn title(self) -> String {
        match self {
            Kind::Text => "text".into(),
            Kind::Bool => "bool".into(),
            Kind::Int => "int".into(),
            Kind::Uint => "uint".into(),
            Kind::Uint32 => "uint32".into(),
            Kind::Duration => "duration".into(),
            Kind::Urls | Kind::Origins => "URLs".into(),
            Kind::Strings | Kind::List => "list".into(),
            Kind::Choice(words) => words.join(", "),
            Kind::Gates => "gates".into(),
            Kind::Any => "any".into(),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Bool(flag) => write!(f, "{flag}"),
            Value::Int(number) => write!(f, "{number}"),
            Value::Uint(number) => write!(f, "{number}"),
            Value::Duration(nanos) => f.write_str(&show_duration(*nanos)),
            Value::Urls(urls) => f.write_str(&url::show_list(urls)),
            Value::List(items) => f.write_str(&items.join(",")),
        }
    }
}

/// Why a number was not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberError {
    /// Not in Go's notation.
    Syntax,
    /// Too large or too small.
    Range,
}

impl NumberError {
    fn flag_text(self) -> &'static str {
        match self {
            NumberError::Syntax => "parse error",
            NumberError::Range => "value out of range",
        }
    }

    fn strconv_text(self) -> &'static str {
        match self {
            NumberError::Syntax => "invalid syntax",
            NumberError::Range => "value out of range",
        }
    }
}

/// Go's `strconv.ParseBool`.
pub fn read_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `strconv.ParseUint` with base 0: decimal, `0x`, `0o`, `0b` or a leading `0` for octal; `_` between digits.
pub fn read_uint(text: &str) -> Result<u64, NumberError> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    let prefixed = digits.len() < lower.len();
    let digits = digits
        .strip_prefix('_')
        .filter(|_| prefixed)
        .unwrap_or(digits);
    if digits.is_empty()
        || digits.starts_with(['_', '+', '-'])
        || digits.ends_with('_')
        || digits.contains("__")
    {
        return Err(NumberError::Syntax);
    }
    let plain = digits.replace('_', "");
    if !plain.chars().all(|c| c.is_digit(radix)) {
        return Err(NumberError::Syntax);
    }
    u64::from_str_radix(&plain, radix).map_err(|_| NumberError::Range)
}

/// Go's `strconv.ParseInt` with base 0.
pub fn read_int(text: &str) -> Result<i64, NumberError> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let size = i128::from(read_uint(rest)?);
    let number = if negative { -size } else { size };
    i64::try_from(number).map_err(|_| NumberError::Range)
}

fn read_uint32(text: &str) -> Result<Value, String> {
    let number = read_uint(text).and_then(|n| u32::try_from(n).map_err(|_| NumberError::Range));
    match number {
        Ok(number) => Ok(Value::Uint(number.into())),
        Err(e) => Err(format!(
            "strconv.ParseUint: parsing {}: {}",
            quote(text),
            e.strconv_text()
        )),
    }
}

fn read_origins(text: &str) -> Result<Value, String> {
    if text.is_empty() || text == "*" {
        return Ok(Value::List(vec![text.to_owned()]));
    }
    let urls = url::read_list(text)?;
    Ok(Value::List(urls.iter().map(Url::to_string).collect()))
}

/// Splits at commas; the empty text has no parts.
pub fn split(text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    text.split(',').map(str::to_owned).collect()
}

fn split_sorted(text: &str) -> Vec<String> {
    let mut parts = split(text);
    parts.sort();
    parts.dedup();
    parts
}

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Go's `time.ParseDuration`, in nanoseconds, with its error texts.
pub fn read_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c != '.' && !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let unit_end = tail
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text)));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!(
                "time: unknown unit {} in duration {}",
                quote(unit),
                quote(text)
            ));
        };
        total = scaled(whole, fraction, *scale)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(invalid)?;
        rest = tail;
    }
    let signed = if negative { -total } else { total };
    i64::try_from(signed).map_err(|_| invalid())
}

/// `whole.fraction` times `scale`, cut to a whole number. `None` if it cannot be a duration.
fn scaled(whole: &str, fraction: &str, scale: i64) -> Option<i128> {
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    // Beyond eighteen places the digits are worth less than a nanosecond even for hours.
    let places = &fraction[..fraction.len().min(18)];
    let part: i128 = if places.is_empty() {
        0
    } else {
        places.parse().ok()?
    };
    let divisor = 10_i128.pow(places.len() as u32);
    whole
        .checked_mul(scale.into())?
        .checked_add(part * i128::from(scale) / divisor)
}

/// Go's `time.Duration.String`: `1h0m0s`, `1.5s`, `300ms`.
pub fn show_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let size = nanos.unsigned_abs();
    match size {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{size}ns"),
        1_000..1_000_000 => format!("{sign}{}\u{b5}s", decimal(size, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(size, 1_000_000)),
        _ => {
            let (minutes, rest) = (size / 60_000_000_000, size % 60_000_000_000);
            let seconds = decimal(rest, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

fn decimal(size: u64, unit: u64) -> String {
    let (whole, part) = (size / unit, size % unit);
    if part == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{part:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// Go's `%q`: the text in quotes, with what is not printable escaped.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_go_notation() {
        for (text, number) in [
            ("0", 0),
            ("10", 10),
            ("0x10", 16),
            ("010", 8),
            ("0b11", 3),
            ("1_000", 1000),
            ("0x_f", 15),
        ] {
            assert_eq!(read_uint(text), Ok(number), "{text}");
        }
        for text in [
            "", "-1", "+1", "1.5", "9a", "_1", "1_", "1__0", "0x", " 1", "0_x1",
        ] {
            assert_eq!(read_uint(text), Err(NumberError::Syntax), "{text}");
        }
        assert_eq!(read_uint("18446744073709551616"), Err(NumberError::Range));
        assert_eq!(read_int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(read_int("9223372036854775808"), Err(NumberError::Range));
        assert_eq!(read_int("--1"), Err(NumberError::Syntax));
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5ms", 500_000),
            ("-2us", -2_000),
            ("1\u{b5}s", 1_000),
            ("2h0m0s", 7_200_000_000_000),
        ] {
            assert_eq!(read_duration(text), Ok(nanos), "{text}");
        }
        assert_eq!(
            read_duration("5"),
            Err("time: missing unit in duration \"5\"".into())
        );
        assert_eq!(
            read_duration("5x"),
            Err("time: unknown unit \"x\" in duration \"5x\"".into())
        );
        for text in ["", "s", ".s", "1..2s", "-", "9999999999h", "1e3s\u{0}"] {
            assert!(read_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for text in [
            "0s",
            "1ns",
            "1.5\u{b5}s",
            "300ms",
            "1.5s",
            "1m0s",
            "2h0m0s",
            "-1m30s",
            "100h0m0.25s",
        ] {
            assert_eq!(
                show_duration(read_duration(text).expect("a duration")),
                text
            );
        }
    }

    #[test]
    fn lists_are_sorted_only_where_etcd_sorts_them() {
        assert_eq!(
            Kind::Strings.read("b,a,b"),
            Ok(Value::List(vec!["a".into(), "b".into()]))
        );
        assert_eq!(
            Kind::List.read("b,a"),
            Ok(Value::List(vec!["b".into(), "a".into()]))
        );
        assert_eq!(Kind::List.read(""), Ok(Value::List(vec![])));
    }

    #[test]
    fn errors_are_those_of_go() {
        assert_eq!(Kind::Uint.read("x"), Err("parse error".into()));
        assert_eq!(
            Kind::Int.read("99999999999999999999"),
            Err("value out of range".into())
        );
        assert_eq!(
            Kind::Uint32.read("4294967296"),
            Err("strconv.ParseUint: parsing \"4294967296\": value out of range".into())
        );
        assert_eq!(Kind::Choice(&["a"]).read("b"), Err("invalid value".into()));
    }
}
