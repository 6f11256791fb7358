//! Results in the formats of etcd's tools. Source: upstream `etcdutl/etcdutl/printer*.go`.

use crate::Failure;

/// What is printed: names for people and for programs, and values.
pub(crate) struct Column {
    /// Header of the table.
    pub(crate) title: &'static str,
    /// Name in the `fields` format.
    pub(crate) field: &'static str,
    /// Name in JSON.
    pub(crate) json: &'static str,
    /// Value in `simple` and `table`.
    pub(crate) text: String,
    /// Value in `fields` and JSON.
    pub(crate) value: Value,
}

impl Column {
    /// A number that people and programs read alike.
    pub(crate) fn number(
        title: &'static str,
        field: &'static str,
        json: &'static str,
        number: i64,
    ) -> Self {
        Column {
            title,
            field,
            json,
            text: number.to_string(),
            value: Value::Number(number),
        }
    }
}

pub(crate) enum Value {
    Number(i64),
    Text(String),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Printer {
    Simple,
    Json,
    Fields,
    Table,
    /// Known, and without a result that it could print.
    Protobuf,
}

impl Printer {
    /// The printer of `--write-out`.
    pub(crate) fn new(name: &str) -> Result<Printer, Failure> {
        Ok(match name {
            "simple" => Printer::Simple,
            "json" => Printer::Json,
            "fields" => Printer::Fields,
            "table" => Printer::Table,
            "protobuf" => Printer::Protobuf,
            _ => return Err(Failure::bad_feature("unsupported output format")),
        })
    }

    /// Prints one row.
    pub(crate) fn print(self, columns: &[Column]) -> Result<(), Failure> {
        println!("{}", self.text(columns)?);
        Ok(())
    }

    fn text(self, columns: &[Column]) -> Result<String, Failure> {
        let joined = |each: &dyn Fn(&Column) -> String, between: &str| {
            columns.iter().map(each).collect::<Vec<_>>().join(between)
        };
        Ok(match self {
            Printer::Simple => joined(&|column| column.text.clone(), ", "),
            Printer::Fields => joined(
                &|column| format!("\"{}\" : {}", column.field, column.value.plain()),
                "\n",
            ),
            Printer::Json => {
                let pair = |column: &Column| format!("\"{}\":{}", column.json, column.value.json());
                format!("{{{}}}", joined(&pair, ","))
            }
            Printer::Table => table(columns),
            Printer::Protobuf => {
                return Err(Failure::bad_feature(
                    "protobuf not supported as output format",
                ));
            }
        })
    }
}

impl Value {
    fn plain(&self) -> String {
        match self {
            Value::Number(number) => number.to_string(),
            Value::Text(text) => text.clone(),
        }
    }

    fn json(&self) -> String {
        match self {
            Value::Number(number) => number.to_string(),
            Value::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
        }
    }
}

/// One row under its headers: headers in the middle of their column, values at its right edge.
fn table(columns: &[Column]) -> String {
    let width = |column: &Column| column.title.len().max(column.text.len());
    let rule = |left: &str, middle: &str, right: &str| {
        let pieces: Vec<String> = columns.iter().map(|c| "─".repeat(width(c) + 2)).collect();
        format!("{left}{}{right}", pieces.join(middle))
    };
    let row = |cell: &dyn Fn(&Column) -> String| {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| format!(" {} ", cell(column)))
            .collect();
        format!("│{}│", cells.join("│"))
    };
    let head = row(&|column| {
        let gap = width(column) - column.title.len();
        let (left, right) = (gap / 2, gap - gap / 2);
        format!("{}{}{}", " ".repeat(left), column.title, " ".repeat(right))
    });
    let body = row(&|column| format!("{:>width$}", column.text, width = width(column)));
    [
        rule("┌", "┬", "┐"),
        head,
        rule("├", "┼", "┤"),
        body,
        rule("└", "┴", "┘"),
    ]
    .join("\n")
}

/// Sizes as etcd's tools print them: powers of 1000, one decimal below ten.
pub(crate) fn human(bytes: u64) -> String {
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    match value < 10.0 {
        true => format!("{value:.1} {}", units[unit]),
        false => format!("{value:.0} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> [Column; 2] {
        [
            Column {
                title: "HASH",
                field: "Hash",
                json: "hash",
                text: "1f00d".into(),
                value: Value::Number(0x1f00d),
            },
            Column {
                title: "VERSION",
                field: "Version",
                json: "version",
                text: "3\"7".into(),
                value: Value::Text("3\"7".into()),
            },
        ]
    }

    #[test]
    fn each_format_has_the_form_of_the_original() {
        let text = |printer: Printer| printer.text(&columns()).expect("a format with text");
        assert_eq!(text(Printer::Simple), "1f00d, 3\"7");
        assert_eq!(
            text(Printer::Fields),
            "\"Hash\" : 126989\n\"Version\" : 3\"7"
        );
        assert_eq!(
            text(Printer::Json),
            "{\"hash\":126989,\"version\":\"3\\\"7\"}"
        );
        let lines = [
            "┌───────┬─────────┐",
            "│ HASH  │ VERSION │",
            "├───────┼─────────┤",
            "│ 1f00d │     3\"7 │",
            "└───────┴─────────┘",
        ];
        assert_eq!(text(Printer::Table), lines.join("\n"));
        let refused = Printer::Protobuf.text(&columns()).expect_err("no text");
        assert_eq!(refused.code, crate::EXIT_BAD_FEATURE);
    }

    #[test]
    fn sizes_are_in_powers_of_a_thousand() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (20_480, "20 kB"),
            (1_982_464, "2.0 MB"),
            (999_999, "1000 kB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
