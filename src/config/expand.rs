//! `${VAR}` and `${VAR:-default}` in the strings of a file, replaced when it
//! is read: from the environment, then from `[vars]`.

use std::collections::BTreeMap;

use crate::nearest::did_you_mean;

/// Asks for a variable of the environment.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `text` with its variables replaced. `$${` stands for `${` itself.
///
/// # Errors
/// Which variable is not set, or where the brackets are wrong.
pub(super) fn expand(
    text: &str,
    environment: Environment<'_>,
    vars: &BTreeMap<String, String>,
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start - 1]);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let inside = &rest[start + 2..];
        let end = inside.find('}').ok_or("`${` has no closing bracket; write ${NAME} or ${NAME:-default}")?;
        let (name, default) = match inside[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inside[..end], None),
        };
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            let shown = name.escape_debug();
            return Err(format!(
                "`{shown}` is not the name of a variable; write ${{NAME}} or ${{NAME:-default}}"
            ));
        }
        let value =
            environment(name).or_else(|| vars.get(name).cloned()).or_else(|| default.map(str::to_owned));
        match value {
            Some(value) => out.push_str(&value),
            None => {
                let hint = did_you_mean(name, vars.keys().map(String::as_str)).unwrap_or_else(|| {
                    format!("; set it in the environment or in [vars], or write ${{{name}:-default}}")
                });
                return Err(format!("the variable `{name}` is not set{hint}"));
            }
        }
        rest = &inside[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let vars =
            BTreeMap::from([("server".to_owned(), "db:1".to_owned()), ("HOME_X".into(), "vars".into())]);
        expand(text, &|name| (name == "HOME_X").then(|| "environment".into()), &vars)
    }

    #[test]
    fn variables_come_from_the_environment_then_from_vars_then_from_their_default() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${server}", "db:1"),
            ("a${HOME_X}b${server}c", "aenvironmentbdb:1c"),
            ("${NONE:-}", ""),
            ("${NONE:-127.0.0.1:9000}", "127.0.0.1:9000"),
            ("${server:-x}", "db:1"),
            ("$${server} costs $5", "${server} costs $5"),
        ] {
            assert_eq!(expanded(text).unwrap(), expected, "{text}");
        }
        assert!(expanded("${sever}").unwrap_err().ends_with("did you mean `server`?"));
        for text in ["${NONE}", "${", "${}", "${a b}", "${:-x}", "a${server"] {
            assert!(expanded(text).is_err(), "{text}");
        }
    }
}
