//! `cryo __support`: SUPPORT.md, generated from the registry of resources.

use cryonaut_engine::resource::{Level, REGISTRY};
use cryonaut_engine::suspend::{GIVEN_BACK, HELD_BY};

use crate::console::Console;
use crate::exit::Failure;

const INTRODUCTION: &str = "\
# What Cryonaut saves and restores

<!-- Generated from the registry of resources by `cryo __support`. Do not edit: change the resource's own rows. -->

What is not listed as restored is refused, with the reason and what to do, before anything is disturbed. `cryo check`
tells for a running program or an image what stands in its way.

- **restored**: it comes back as it was.
- **partly**: it comes back with the difference that is stated.
- **refused**: a checkpoint is refused.

| What | Level | How |
|---|---|---|
";

const SUSPENDED: &str = "
# What a suspension gives back

Any program can be suspended, also one that cannot be checkpointed: it keeps all that it has in the kernel. This becomes of its
memory:

| What | Given back | How |
|---|---|---|
";

const HOLDING: &str = "
## What holds it

| Held by | Where | What else than `cryo resume` wakes or ends it |
|---|---|---|
";

/// Prints the document.
pub fn run(console: Console) -> Result<u8, Failure> {
    let mut text = INTRODUCTION.to_owned();
    for row in REGISTRY.iter().flat_map(|resource| resource.support()) {
        let level = match row.level {
            Level::Restored => "restored",
            Level::Partly => "partly",
            Level::Refused => "refused",
        };
        text.push_str(&format!(
            "| {} | {level} | {} |\n",
            cell(row.what),
            cell(row.how)
        ));
    }
    text.push_str(SUSPENDED);
    for [what, whether, how] in GIVEN_BACK {
        text.push_str(&format!("| {} | {whether} | {} |\n", cell(what), cell(how)));
    }
    text.push_str(HOLDING);
    for [what, place, wakes] in HELD_BY {
        text.push_str(&format!(
            "| {} | {} | {} |\n",
            cell(what),
            cell(place),
            cell(wakes)
        ));
    }
    console.result(&text, || text.clone())?;
    Ok(0)
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
