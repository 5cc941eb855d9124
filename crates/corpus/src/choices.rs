//! Multiple choice: the choices of a row, and which one its label says is right.

use crate::corpus::faults::Fault;
use crate::rows;
use arrow::array::{Array, ArrayRef, AsArray, LargeListArray, LargeStringArray};
use config::CHOICES_MAX;

/// The choices of each row, however a file has them.
pub(crate) enum ChoiceRows {
    Lists {
        texts: LargeListArray,
        /// What the choices are called, where a row says it.
        labels: Option<LargeListArray>,
    },
    /// A column for each.
    Columns(Vec<LargeStringArray>),
}

/// What one row has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choices {
    texts: Vec<Option<String>>,
    labels: Option<Vec<Option<String>>>,
}

impl ChoiceRows {
    /// `columns`: one of lists, or several of text. An error is what is wrong with them.
    pub(crate) fn of(columns: &[ArrayRef]) -> Result<Self, String> {
        let [column] = columns else {
            return Ok(Self::Columns(columns.iter().map(rows::text).collect::<Result<_, _>>()?));
        };
        let Some(both) = column.as_struct_opt() else {
            return Ok(Self::Lists { texts: rows::text_lists(column)?, labels: None });
        };
        let list = |name: &str| {
            let list = both.column_by_name(name).ok_or_else(|| format!("the choices have no `{name}`"))?;
            rows::text_lists(list)
        };
        // A null of the whole is one of its parts.
        let texts = list("text")?;
        let nulls = arrow::buffer::NullBuffer::union(texts.nulls(), both.nulls());
        let (field, offsets, values, _) = texts.into_parts();
        let texts = LargeListArray::try_new(field, offsets, values, nulls).map_err(|error| error.to_string())?;
        Ok(Self::Lists { texts, labels: Some(list("label")?) })
    }

    /// None: the row has none at all.
    pub(crate) fn row(&self, row: usize) -> Option<Choices> {
        let list = |lists: &LargeListArray| -> Vec<Option<String>> {
            lists.value(row).as_string::<i64>().iter().map(|text| text.map(str::to_owned)).collect()
        };
        let choices = match self {
            Self::Lists { texts, labels } => {
                if texts.is_null(row) {
                    return None;
                }
                let labels = labels.as_ref().filter(|labels| labels.is_valid(row)).map(list);
                Choices { texts: list(texts), labels }
            }
            Self::Columns(columns) => {
                let text = |column: &LargeStringArray| column.is_valid(row).then(|| column.value(row).to_owned());
                let mut texts: Vec<Option<String>> = columns.iter().map(text).collect();
                let is_filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.trim().is_empty());
                let used = texts.iter().rposition(is_filled).map_or(0, |last| last + 1);
                texts.truncate(used);
                Choices { texts, labels: None }
            }
        };
        Some(choices).filter(|choices| !choices.texts.is_empty())
    }
}

impl Choices {
    /// The texts, all of them different, and the number of the right one, from 0. In labels the first one has number `first`.
    pub(crate) fn checked(&self, label: &str, first: usize) -> Result<(Vec<&str>, usize), Fault> {
        let texts: Vec<&str> = self.texts.iter().map(|text| text.as_deref().unwrap_or_default()).collect();
        check_choices(&texts)?;
        let right = match &self.labels {
            Some(labels) => named(labels, texts.len(), label.trim())?,
            None => meant(&texts, label.trim(), first)?,
        };
        Ok((texts, right))
    }
}

/// Whether a row has choices that one can be chosen from: two at least, none empty, no two the same. An error is what is
/// wrong, and what to do.
pub fn check_choices(texts: &[&str]) -> Result<(), (String, String)> {
    let wrong = |message: String, help: &str| Err((message, help.to_owned()));
    if texts.len() < 2 {
        return wrong(format!("{} choice(s)", texts.len()), "give at least two, or leave the row out");
    }
    if texts.len() > CHOICES_MAX {
        return wrong(
            format!("there are {} choices, and {CHOICES_MAX} are read at most", texts.len()),
            "leave some out",
        );
    }
    for (number, text) in texts.iter().enumerate() {
        if text.trim().is_empty() {
            return wrong(format!("choice {} is empty", letter(number)), "write it, or leave it out behind the others");
        }
        if let Some(other) = texts[..number].iter().position(|other| other.trim() == text.trim()) {
            let message = format!("choices {} and {} are the same: `{text}`", letter(other), letter(number));
            return wrong(message, "leave one of them out: either would be right or wrong");
        }
    }
    Ok(())
}

fn letter(number: usize) -> char {
    char::from(b'A' + number.min(CHOICES_MAX - 1) as u8)
}

/// The choice that a label means: by its number, its letter or its text, whichever it is. What could be read as two
/// different ones is refused.
fn meant(texts: &[&str], label: &str, first: usize) -> Result<usize, Fault> {
    let by_number = label.parse::<usize>().ok().and_then(|number| number.checked_sub(first));
    let by_letter = match label.as_bytes() {
        [letter] if letter.is_ascii_alphabetic() => Some((letter.to_ascii_uppercase() - b'A') as usize),
        _ => None,
    };
    let by_text = texts.iter().position(|text| text.trim() == label);
    let known = |number: Option<usize>| number.filter(|number| *number < texts.len());
    let readings = [("number", known(by_number)), ("letter", known(by_letter)), ("text", by_text)];
    let mut found = readings.iter().filter_map(|(what, number)| Some((*what, (*number)?)));
    let last = texts.len() - 1;
    let Some((what, right)) = found.next() else {
        let help = format!(
            "write the right one's number from {first} to {}, its letter from A to {}, or its text; null leaves the row out \
             (data.first_choice is the first one's number)",
            first + last,
            letter(last)
        );
        return Err((format!("`{label}` is none of the {} choices", texts.len()), help));
    };
    if let Some((other_what, other)) = found.find(|(_, other)| *other != right) {
        let message = format!(
            "`{label}` is the {what} of choice {}, and the {other_what} of choice {}",
            letter(right),
            letter(other)
        );
        let help = format!("write `{}` or `{}`: which of the two is right", letter(right), letter(other));
        let help =
            if what == "letter" { format!("write its number: {} or {}", first + right, first + other) } else { help };
        return Err((message, help));
    }
    Ok(right)
}

/// The choice that has this label of its own.
fn named(labels: &[Option<String>], texts: usize, label: &str) -> Result<usize, Fault> {
    if labels.len() != texts {
        let message = format!("{texts} texts and {} labels of choices", labels.len());
        return Err((message, "give each choice a label".to_owned()));
    }
    let is_it = |own: &Option<String>| own.as_deref().is_some_and(|own| own.trim() == label);
    let mut found = labels.iter().enumerate().filter(|(_, own)| is_it(own)).map(|(number, _)| number);
    match (found.next(), found.next()) {
        (Some(right), None) => Ok(right),
        (None, _) => {
            let known: Vec<&str> = labels.iter().map(|own| own.as_deref().unwrap_or("null")).collect();
            let help = "write the label of the right choice; null leaves the row out";
            Err((format!("`{label}` is none of the choices' labels: {}", known.join(", ")), help.to_owned()))
        }
        (Some(first), Some(second)) => {
            let message = format!("choices {} and {} have the label `{label}` both", letter(first), letter(second));
            Err((message, "give each choice a label of its own".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(texts: &[&str], labels: Option<&[&str]>) -> Choices {
        let list = |texts: &[&str]| texts.iter().map(|text| Some((*text).to_owned())).collect();
        Choices { texts: list(texts), labels: labels.map(list) }
    }

    #[test]
    fn a_label_is_a_number_a_letter_or_a_text() {
        let right = |texts: &[&str], label: &str| choices(texts, None).checked(label, 0).map(|(_, right)| right);
        let animals = ["a cat", "a dog ", "the sun"];
        for (label, number) in [("0", 0), ("2", 2), (" B ", 1), ("c", 2), ("a dog", 1), ("the sun", 2)] {
            assert_eq!(right(&animals, label), Ok(number), "{label}");
        }
        for label in ["3", "-1", "D", "", "a mouse", "1.0", "AB"] {
            let (message, help) = right(&animals, label).unwrap_err();
            assert!(message.contains(&format!("`{label}` is none of the 3 choices")), "{message}");
            assert!(help.contains("from 0 to 2") && help.contains("from A to C"), "{help}");
        }
        // Numbers that are texts: read both ways, and both are the same choice, or it is refused.
        let numbers = ["1", "2", "0"];
        assert_eq!((right(&numbers, "A"), right(&["0", "1"], "1")), (Ok(0), Ok(1)));
        let (message, help) = right(&numbers, "1").unwrap_err();
        assert_eq!(message, "`1` is the number of choice B, and the text of choice A");
        assert_eq!(help, "write `B` or `A`: which of the two is right");
        let (message, help) = right(&["B", "A"], "A").unwrap_err();
        assert_eq!(message, "`A` is the letter of choice A, and the text of choice B");
        assert_eq!(help, "write its number: 0 or 1");
        assert_eq!(right(&["7", "8"], "8"), Ok(1), "there is no choice of that number");
    }

    #[test]
    fn numbers_may_count_from_one() {
        let right = |texts: &[&str], label: &str| choices(texts, None).checked(label, 1).map(|(_, right)| right);
        let animals = ["a cat", "a dog", "the sun"];
        for (label, number) in [("1", 0), ("3", 2), ("a", 0), ("a dog", 1)] {
            assert_eq!(right(&animals, label), Ok(number), "{label}");
        }
        for label in ["0", "4"] {
            let (_, help) = right(&animals, label).unwrap_err();
            assert!(help.contains("from 1 to 3") && help.contains("data.first_choice"), "{help}");
        }
        assert_eq!(right(&["B", "A"], "A").unwrap_err().1, "write its number: 1 or 2");
    }

    #[test]
    fn choices_with_labels_of_their_own_are_meant_by_these() {
        let right = |labels: &[&str], label: &str| {
            choices(&["x", "y", "z"], Some(labels)).checked(label, 1).map(|(_, right)| right)
        };
        assert_eq!((right(&["1", "2", "3"], "1"), right(&["C", "B", "A"], "A")), (Ok(0), Ok(2)));
        for (labels, label, says) in [
            (&["A", "B", "C"][..], "0", "`0` is none of the choices' labels: A, B, C"),
            (&["A", "B", "A"], "A", "choices A and C have the label `A` both"),
            (&["A", "B"], "A", "3 texts and 2 labels of choices"),
        ] {
            assert_eq!(right(labels, label).unwrap_err().0, says);
        }
    }

    #[test]
    fn choices_are_two_or_more_and_differ() {
        let many: Vec<String> = (0..27).map(|number| format!("c{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(check_choices(&many[..26]), Ok(()));
        for (texts, says) in [
            (&[][..], "0 choice(s)"),
            (&["a"], "1 choice(s)"),
            (&many, "27 choices, and 26 are read at most"),
            (&["a", " ", "b"], "choice B is empty"),
            (&["a", "b", "a "], "choices A and C are the same: `a `"),
        ] {
            let (message, help) = check_choices(texts).unwrap_err();
            assert!(message.contains(says) && !help.is_empty(), "{message}");
        }
    }
}
