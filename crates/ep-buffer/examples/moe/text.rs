//! The words of a text as token numbers.

use std::collections::HashMap;

/// The Declaration of Independence (1776, in part) and the Gettysburg Address (1863).
const TEXT: &str = include_str!("text.txt");

/// A text as a sequence of word numbers.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    /// Word number at each place of the text.
    pub(crate) words: Vec<u32>,
    /// How many different words there are.
    pub(crate) vocabulary: usize,
}

impl Text {
    /// The text that comes with this example.
    pub(crate) fn load() -> Self {
        Self::new(TEXT)
    }

    /// Words are runs of letters, in lower case, numbered as they first occur;
    /// punctuation marks are words of their own.
    pub(crate) fn new(text: &str) -> Self {
        let mut numbers = HashMap::new();
        let mut words = Vec::new();
        let mut number = |word: String| {
            let next = numbers.len() as u32;
            words.push(*numbers.entry(word).or_insert(next));
        };
        let mut word = String::new();
        for c in text.chars() {
            if c.is_alphanumeric() {
                word.extend(c.to_lowercase());
                continue;
            }
            if !word.is_empty() {
                number(std::mem::take(&mut word));
            }
            if !c.is_whitespace() {
                number(c.to_string());
            }
        }
        if !word.is_empty() {
            number(word);
        }
        let vocabulary = numbers.len();
        Self { words, vocabulary }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_marks_are_numbered_as_they_occur() {
        let text = Text::new("The men, the People; men");
        assert_eq!(text.words, [0, 1, 2, 0, 3, 4, 1]);
        assert_eq!(text.vocabulary, 5);
        assert!(Text::load().words.len() > 900);
    }
}
