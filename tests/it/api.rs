//! The public API, listed, so that a change of it is seen: every `pub` item of
//! the library with its signature. (The lint `unreachable_pub` holds that what
//! is `pub` can be reached.) `UPDATE=1 cargo test --test it -- api` rewrites it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use quote::ToTokens;
use syn::{Fields, ImplItem, Item, TraitItem, Visibility};

use crate::support::root;

#[test]
fn the_public_api_is_the_one_that_is_listed() {
    let source = root().join("src");
    let mut parsed = Vec::new();
    for file in files(&source) {
        let inside = file.strip_prefix(&source).unwrap();
        // The program is not the library.
        if !inside.starts_with("bin") && !inside.starts_with("cli") {
            let items = syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap().items;
            parsed.push((inside.display().to_string(), items));
        }
    }
    let types: BTreeSet<_> = parsed.iter().flat_map(|(_, items)| items).filter_map(public_type).collect();
    let mut lines = Vec::new();
    for (file, items) in &parsed {
        items.iter().for_each(|item| list(item, file, &types, &mut lines));
    }
    let listed = lines.join("\n") + "\n";
    let fixture = root().join("tests/fixtures/public_api.txt");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&fixture, &listed).unwrap();
    }
    let expected = fs::read_to_string(&fixture).unwrap();
    let new: Vec<_> = listed.lines().filter(|line| !expected.lines().any(|known| known == *line)).collect();
    let gone: Vec<_> = expected.lines().filter(|line| !listed.lines().any(|known| known == *line)).collect();
    assert!(
        listed == expected,
        "the public API has changed; if that is meant, UPDATE=1\nnew:\n{}\ngone:\n{}",
        new.join("\n"),
        gone.join("\n")
    );
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let inside = entries.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    inside.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

fn public_type(item: &Item) -> Option<String> {
    match item {
        Item::Struct(it) if is_public(&it.vis) => Some(it.ident.to_string()),
        Item::Enum(it) if is_public(&it.vis) => Some(it.ident.to_string()),
        _ => None,
    }
}

fn list(item: &Item, file: &str, types: &BTreeSet<String>, lines: &mut Vec<String>) {
    let mut add = |text: String| lines.push(format!("{file}: {text}"));
    match item {
        Item::Struct(it) if is_public(&it.vis) => {
            add(format!("struct {}{}", it.ident, text(&it.generics)));
            fields(&it.fields, &it.ident.to_string(), true, &mut add);
        }
        Item::Enum(it) if is_public(&it.vis) => {
            add(format!("enum {}{}", it.ident, text(&it.generics)));
            for variant in &it.variants {
                let name = format!("{}::{}", it.ident, variant.ident);
                add(format!("variant {name}"));
                fields(&variant.fields, &name, false, &mut add);
            }
        }
        Item::Trait(it) if is_public(&it.vis) => {
            add(format!("trait {}{}", it.ident, text(&it.generics)));
            for item in &it.items {
                match item {
                    TraitItem::Fn(function) => add(format!("{}: {}", it.ident, text(&function.sig))),
                    TraitItem::Type(alias) => add(format!("{}: {}", it.ident, text(alias))),
                    _ => {}
                }
            }
        }
        Item::Fn(it) if is_public(&it.vis) => add(text(&it.sig)),
        Item::Const(it) if is_public(&it.vis) => add(format!("const {}: {}", it.ident, text(&it.ty))),
        Item::Type(it) if is_public(&it.vis) => add(format!("type {} = {}", it.ident, text(&it.ty))),
        Item::Use(it) if is_public(&it.vis) => add(format!("use {}", text(&it.tree))),
        Item::Mod(it) if is_public(&it.vis) => add(format!("mod {}", it.ident)),
        Item::Impl(it) => {
            let of = text(&it.self_ty);
            if !types.contains(of.split('<').next().unwrap()) {
                return;
            }
            if let Some((path, _)) = &it.trait_ {
                add(format!("impl {} for {of}", text(path)));
                return;
            }
            for item in &it.items {
                match item {
                    ImplItem::Fn(function) if is_public(&function.vis) => {
                        add(format!("{of}: {}", text(&function.sig)));
                    }
                    ImplItem::Const(constant) if is_public(&constant.vis) => {
                        add(format!("{of}: const {}: {}", constant.ident, text(&constant.ty)));
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn fields(fields: &Fields, owner: &str, asks: bool, add: &mut impl FnMut(String)) {
    for (place, field) in fields.iter().enumerate() {
        if !asks || is_public(&field.vis) {
            let name = field.ident.as_ref().map_or_else(|| place.to_string(), ToString::to_string);
            add(format!("{owner}.{name}: {}", text(&field.ty)));
        }
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Tokens as they would be written.
fn text(tokens: &impl ToTokens) -> String {
    let mut text = tokens.to_token_stream().to_string();
    for (spaced, tight) in [
        (" :: ", "::"),
        (":: ", "::"),
        (" < ", "<"),
        ("< ", "<"),
        (" >", ">"),
        (" , ", ", "),
        (" ,", ","),
        ("& ", "&"),
        (" : ", ": "),
        (" ( ", "("),
        ("( ", "("),
        (" (", "("),
        (" )", ")"),
        ("' ", "'"),
        (" ;", ";"),
    ] {
        text = text.replace(spaced, tight);
    }
    text.replace("->", " -> ").replace("  ", " ")
}
