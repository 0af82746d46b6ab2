//! The manual. Each page is a text file, part of these docs and printed by
//! `node help TOPIC`.

/// A page of the manual.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The word after `node help`.
    pub topic: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// The page, in Markdown.
    pub text: &'static str,
}

/// All pages, in reading order.
pub const PAGES: &[Page] = &[];
