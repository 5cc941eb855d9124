//! Cloze prompts: a sentence around a text, with one word left out (Schick and Schütze 2021, PET).

use std::str::FromStr;

/// What stands for the word that is left out, whatever a tokenizer calls it.
pub const PROMPT_MASK: &str = "[MASK]";

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptPart {
    /// As it stands.
    Literal(String),
    /// `{text}`
    Text,
    /// `{pair}`: the second text.
    Pair,
    /// `[MASK]`
    Mask,
}

/// A prompt such as `{text} It was [MASK].`: the text once, the second text at most once, one word left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    parts: Vec<PromptPart>,
}

impl Prompt {
    /// Its parts in order.
    pub fn parts(&self) -> &[PromptPart] {
        &self.parts
    }

    /// Whether it takes two texts.
    pub fn has_pair(&self) -> bool {
        self.parts.contains(&PromptPart::Pair)
    }

    /// Whether a space, or the beginning of a sentence, stands before the word that is left out, as in most languages that
    /// write spaces.
    pub fn has_space_before_mask(&self) -> bool {
        let mask = self.parts.iter().position(|part| *part == PromptPart::Mask).unwrap_or_default();
        match mask.checked_sub(1).map(|before| &self.parts[before]) {
            Some(PromptPart::Literal(text)) => text.ends_with(char::is_whitespace),
            _ => false,
        }
    }
}

/// What is put in for a text.
const PLACES: [(&str, PromptPart); 3] =
    [("{text}", PromptPart::Text), ("{pair}", PromptPart::Pair), (PROMPT_MASK, PromptPart::Mask)];

impl FromStr for Prompt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let next = PLACES.iter().filter_map(|(name, part)| rest.find(name).map(|at| (at, name.len(), part)));
            let Some((at, length, part)) = next.min_by_key(|(at, ..)| *at) else {
                parts.push(PromptPart::Literal(rest.to_owned()));
                break;
            };
            if at > 0 {
                parts.push(PromptPart::Literal(rest[..at].to_owned()));
            }
            parts.push(part.clone());
            rest = &rest[at + length..];
        }
        let times = |part: PromptPart| parts.iter().filter(|it| **it == part).count();
        for (name, part, fits, wanted) in [
            ("{text}", PromptPart::Text, times(PromptPart::Text) == 1, "once"),
            ("{pair}", PromptPart::Pair, times(PromptPart::Pair) <= 1, "once at most"),
            (PROMPT_MASK, PromptPart::Mask, times(PromptPart::Mask) == 1, "once"),
        ] {
            if !fits {
                return Err(format!("`{text}` has {name} {} time(s), and it must stand there {wanted}", times(part)));
            }
        }
        let stray = parts.iter().find_map(|part| match part {
            PromptPart::Literal(literal) if literal.contains(['{', '}']) => Some(literal),
            _ => None,
        });
        match stray {
            Some(literal) => {
                Err(format!("`{}` holds a brace that belongs to neither {{text}} nor {{pair}}", literal.trim()))
            }
            None => Ok(Self { parts }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_has_its_parts() {
        let prompt: Prompt = "{text} It was [MASK].".parse().unwrap();
        let literal = |text: &str| PromptPart::Literal(text.to_owned());
        assert_eq!(prompt.parts(), [PromptPart::Text, literal(" It was "), PromptPart::Mask, literal(".")]);
        assert!(!prompt.has_pair() && prompt.has_space_before_mask());
        let pair: Prompt = "{text}? [MASK], {pair}".parse().unwrap();
        assert!(pair.has_pair() && pair.has_space_before_mask());
        assert!(!"很[MASK]。{text}".parse::<Prompt>().unwrap().has_space_before_mask());
    }

    #[test]
    fn what_is_no_prompt_is_told() {
        let told = |text: &str| text.parse::<Prompt>().unwrap_err();
        assert!(told("It was [MASK].").contains("has {text} 0 time(s)"));
        assert!(told("{text} It was.").contains("has [MASK] 0 time(s)"));
        assert!(told("{text} [MASK] [MASK]").contains("has [MASK] 2 time(s), and it must stand there once"));
        assert!(told("{text} {label} [MASK]").contains("`{label}` holds a brace"));
    }
}
