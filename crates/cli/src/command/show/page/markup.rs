//! Markup in which names cannot become markup: whatever is not a literal of this program is escaped.
//!
//! Own code rather than a template engine: the page is tables and drawings made by loops, for which a template would call back
//! into Rust at every step; and here the types say what is escaped.

use crate::console::turns_writing;

/// HTML or SVG under construction.
#[derive(Debug, Default)]
pub struct Markup(String);

/// Attributes of an element; names are literals, values are escaped.
pub type Attributes<'a> = &'a [(&'static str, &'a str)];

impl Markup {
    /// The text so far.
    pub fn into_text(self) -> String {
        self.0
    }

    /// Adds markup of this program's own: literals only.
    pub fn literal(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    /// Adds text.
    pub fn text(&mut self, text: &str) {
        for letter in text.chars() {
            match letter {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' => self.0.push('\u{2424}'),
                letter if letter.is_control() || turns_writing(letter) => self.0.push('\u{fffd}'),
                letter => self.0.push(letter),
            }
        }
    }

    /// Begins an element.
    pub fn open(&mut self, tag: &'static str, attributes: Attributes<'_>) {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.text(value);
            self.0.push('"');
        }
        self.0.push('>');
    }

    /// Ends an element.
    pub fn close(&mut self, tag: &'static str) {
        self.0.push_str("</");
        self.0.push_str(tag);
        self.0.push('>');
    }

    /// An element with what `inside` puts in it.
    pub fn element(
        &mut self,
        tag: &'static str,
        attributes: Attributes<'_>,
        inside: impl FnOnce(&mut Self),
    ) {
        self.open(tag, attributes);
        inside(self);
        self.close(tag);
    }

    /// An element with a text in it.
    pub fn leaf(&mut self, tag: &'static str, attributes: Attributes<'_>, text: &str) {
        self.element(tag, attributes, |inside| inside.text(text));
    }

    /// A table in a box that scrolls if it is too wide. Columns whose heads begin with `#` are of numbers.
    pub fn table(&mut self, heads: &[&'static str], rows: impl IntoIterator<Item = Vec<String>>) {
        self.open("div", &[("class", "scroll"), ("tabindex", "0")]);
        self.literal("<table><thead><tr>");
        let class = |head: &str| if head.starts_with('#') { "number" } else { "" };
        for head in heads {
            let attributes = [("scope", "col"), ("class", class(head))];
            self.leaf("th", &attributes, head.trim_start_matches('#'));
        }
        self.literal("</tr></thead><tbody>");
        for row in rows {
            self.literal("<tr>");
            for (cell, head) in row.iter().zip(heads) {
                match class(head) {
                    "" => self.leaf("td", &[], cell),
                    class => self.leaf("td", &[("class", class)], cell),
                }
            }
            self.literal("</tr>");
        }
        self.literal("</tbody></table></div>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_names() {
        let mut markup = Markup::default();
        markup.leaf(
            "b",
            &[("title", "\"><script>1</script>")],
            "</b><script>'&\u{1b}\u{202e}\n",
        );
        assert_eq!(
            markup.into_text(),
            "<b title=\"&quot;&gt;&lt;script&gt;1&lt;/script&gt;\">\
             &lt;/b&gt;&lt;script&gt;&#39;&amp;\u{fffd}\u{fffd}\u{2424}</b>"
        );
    }
}
