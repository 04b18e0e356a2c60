//! `cryo show` of a real checkpoint: in a terminal, through a pipe, and as a page in a real browser.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::checkpoint;
use cryonaut_suite::{Outcome, Program, Scene, User, failed, test};

/// A browser takes its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Processes of the victim.
const PROCESSES: usize = 4;

/// The image of a job whose names are markup, terminal sequences, and no text.
fn image(scene: &Scene) -> Outcome<PathBuf> {
    let job = scene.start("victim", &Program::victim("hostile_names", &[])?)?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    let image = scene.work("image.cryo");
    checkpoint(scene, &job.pid().to_string(), &image, "--leave-running")?;
    scene.go()?;
    scene.wait(&job)?;
    Ok(image)
}

/// Runs the browser on a page; gives what it wrote to standard output, and to standard error.
fn browse(scene: &Scene, page: &Path, options: &[&str]) -> Outcome<(String, String)> {
    let program = Program::installed("chromium")?;
    let mut command: Command = scene.session_command(&program.path);
    command
        .args([
            // The user of the tests has no name, and may be root: neither can have the browser's own sandbox.
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            "--window-size=1240,2600",
        ])
        .arg(format!(
            "--user-data-dir={}",
            scene.work("profile").display()
        ))
        .args(options)
        .arg(format!("file://{}", page.display()));
    let running = scene.spawn("chromium", command)?;
    let (before, noise) = (running.output().len(), running.errors().len());
    let status = scene.wait_within(&running, PATIENCE)?;
    if !status.success() {
        return failed("the browser failed");
    }
    let (output, errors) = (running.output(), running.errors());
    Ok((
        output.get(before..).unwrap_or(&output).to_owned(),
        errors.get(noise..).unwrap_or(&errors).to_owned(),
    ))
}

fn expect(what: &str, text: &str, wanted: &[&str]) -> Outcome {
    match wanted.iter().find(|part| !text.contains(**part)) {
        None => Ok(()),
        Some(part) => failed(format!("{what}: no {part:?}")),
    }
}

/// What a script in the page finds out about it, as lines in its title.
const PROBE: &str = r#"
const rows = document.querySelectorAll(".tree tbody tr").length;
const drawn = [...document.querySelectorAll(".map")].filter(map => map.getBBox().width > 500).length;
const areas = document.querySelectorAll("article tbody tr").length;
const wires = document.querySelectorAll(".circuit .wire").length;
const fetched = performance.getEntriesByType("resource").length;
const scripts = document.scripts.length;
const wide = document.documentElement.scrollWidth > innerWidth + 1;
// A page without a window is not always given the focus: what a pointer does tells the same.
document.querySelector(".map g").dispatchEvent(new PointerEvent("pointerenter"));
const told = document.querySelector(".hint").textContent.length > 10;
document.querySelector('[aria-label="Zoom in"]').click();
const zoomed = document.querySelector(".map").viewBox.baseVal.width < 1000;
const buttons = document.querySelectorAll(".strip button").length;
document.title = JSON.stringify({ rows, drawn, areas, wires, fetched, scripts, wide, told, zoomed, buttons });
"#;

/// The page is right in a real browser, with and without scripts, runs nothing that a name holds, and fetches nothing.
fn in_a_browser(scene: &Scene) -> Outcome {
    let image = image(scene)?;
    let page = scene.work("page.html");
    scene
        .cryo(["show", "--html"])
        .arguments([&page])
        .arguments([&image])
        .run()?
        .success()?;
    let text = fs::read_to_string(&page)?;
    for foreign in ["http:", "https:", " src=", "url(", "@import"] {
        if text.contains(foreign) {
            return failed(format!("the page refers to something else: {foreign}"));
        }
    }
    without_scripts(&text)?;
    with_scripts(scene, &page, &text)?;
    on_a_picture(scene, &page)
}

/// All that matters is in the text itself.
fn without_scripts(text: &str) -> Outcome {
    let wanted = [
        "<title>&lt;script&gt;a() – Cryonaut image</title>",
        "Nothing stands in the way",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "5 B",
        "fifo&lt;&amp;&gt;",
        "to scale",
    ];
    expect("the page", text, &wanted)?;
    match text.matches("<tr class=\"\" id=\"process-").count() {
        PROCESSES => Ok(()),
        other => failed(format!("{other} processes are in the page")),
    }
}

fn with_scripts(scene: &Scene, page: &Path, text: &str) -> Outcome {
    let (tree, told) = browse(scene, page, &["--dump-dom"])?;
    expect(
        "the page",
        &tree,
        &["data-ready=\"yes\"", "– Cryonaut image</title>"],
    )?;
    if let Some(line) = told.lines().find(|line| line.contains("CONSOLE")) {
        return failed(format!("the browser complains: {line}"));
    }
    // The policy admits scripts that know the page's own number; a name in an image cannot.
    let Some(once) = text.split("script-src &#39;nonce-").nth(1) else {
        return failed("the page has no policy");
    };
    let once = once.split('&').next().unwrap_or_default();
    let probed = scene.work("probed.html");
    let script = format!("<script nonce=\"{once}\">{PROBE}</script></body>");
    scene.write(&probed, text.replace("</body>", &script))?;
    let (tree, told) = browse(scene, &probed, &["--dump-dom"])?;
    if let Some(line) = told.lines().find(|line| line.contains("CONSOLE")) {
        return failed(format!("the browser complains: {line}"));
    }
    let wanted = [
        "\"rows\":4,",
        // Two strips for each process, with three buttons each.
        "\"drawn\":8,",
        "\"fetched\":0,",
        // The page's own, and the probe.
        "\"scripts\":2,",
        "\"wide\":false,",
        "\"told\":true,",
        "\"zoomed\":true,",
        "\"buttons\":24",
    ];
    expect("the page as a script finds it", &tree, &wanted)?;
    // A script that does not know the number is not run.
    let attacked = scene.work("attacked.html");
    let script = "<script>document.title='broken into'</script></body>";
    scene.write(&attacked, text.replace("</body>", script))?;
    let (tree, _) = browse(scene, &attacked, &["--dump-dom"])?;
    match tree.contains("<title>broken into") {
        true => failed("a foreign script ran"),
        false => Ok(()),
    }
}

/// A picture of it is not blank, and has the colours of what is drawn: in the light with scripts, in the dark without.
fn on_a_picture(scene: &Scene, page: &Path) -> Outcome {
    const HEAP: [u8; 3] = [0xd9, 0x62, 0x2b];
    const FILE: [u8; 3] = [0x3d, 0x9a, 0x63];
    const HEAP_IN_THE_DARK: [u8; 3] = [0xf0, 0x8b, 0x57];
    let text = fs::read_to_string(page)?;
    let bare = scene.work("bare.html");
    let script = text.find("<script").unwrap_or(text.len());
    scene.write(&bare, &text[..script])?;
    for (scheme, page, colours) in [
        ("1", page, [HEAP, FILE]),
        ("0", &bare, [HEAP_IN_THE_DARK, HEAP_IN_THE_DARK]),
    ] {
        let picture = scene.work(format!("picture-{scheme}.png"));
        let to = format!("--screenshot={}", picture.display());
        let settings = format!("--blink-settings=preferredColorScheme={scheme}");
        browse(scene, page, &[&to, &settings])?;
        let decoder = png::Decoder::new(BufReader::new(File::open(&picture)?));
        let read = decoder.read_info().and_then(|mut reader| {
            let mut pixels = vec![0; reader.output_buffer_size().unwrap_or_default()];
            let frame = reader.next_frame(&mut pixels)?;
            Ok((pixels, frame))
        });
        let (pixels, frame) = read.or_else(|error| failed(format!("the picture: {error}")))?;
        let samples = frame.color_type.samples();
        let of = |pixel: &[u8]| [pixel[0], pixel[1], pixel[2]];
        let background = of(&pixels);
        let all = pixels.len() / samples;
        let other = pixels
            .chunks(samples)
            .filter(|pixel| of(pixel) != background);
        let share = other.count() as f64 / all as f64;
        if frame.width < 1000 || !(0.02..0.9).contains(&share) {
            return failed(format!("the picture is nearly blank: {share}"));
        }
        for colour in colours {
            if !pixels.chunks(samples).any(|pixel| of(pixel) == colour) {
                return failed(format!("no {colour:02x?} in {}", picture.display()));
            }
        }
    }
    Ok(())
}

/// A reader that has enough is no failure; names do nothing to a terminal; a page replaces no image.
fn elsewhere(scene: &Scene) -> Outcome {
    let image = image(scene)?;
    let shown = scene.cryo(["show", "--mappings", "--descriptors"]);
    let shown = shown.arguments([&image]).run()?.success()?;
    if shown.stdout.contains(['\x1b', '\x07']) {
        return failed("a name reaches the terminal");
    }
    expect(
        "cryo show",
        &shown.stdout,
        &["PID", "└─ ", "5 bytes in flight", "heap"],
    )?;
    let command = format!(
        "{} show --mappings {} | head -n 1; exit ${{PIPESTATUS[0]}}",
        scene.cryo_path().display(),
        image.display()
    );
    let mut shell = scene.command(Path::new("/bin/bash"));
    let output = shell.args(["-c", &command]).output()?;
    if !output.status.success() || !output.stderr.is_empty() {
        return failed(format!("cryo show | head: {output:?}"));
    }
    let before = fs::read(&image)?;
    scene
        .cryo(["show", "--html"])
        .arguments([&image, &image])
        .run()?
        .refusal_with(&[2], &["is an image"])?;
    if fs::read(&image)? != before {
        return failed("the image was written over");
    }
    let page = scene
        .cryo(["show"])
        .arguments([&image])
        .arguments(["--html", "-"])
        .run()?
        .success()?;
    expect(
        "a page on standard output",
        &page.stdout,
        &["<!DOCTYPE html>", "</html>"],
    )?;
    scene
        .cryo(["show"])
        .arguments([&image])
        .arguments(["--html"])
        .run()?
        .success()?;
    match scene.work("image.html").exists() {
        true => Ok(()),
        false => failed("the page has no usual name"),
    }
}

#[test]
fn a_page_in_a_browser() {
    test("a_page_in_a_browser", User::Ordinary, in_a_browser);
}

#[test]
fn texts_and_pages_go_where_they_should() {
    test(
        "texts_and_pages_go_where_they_should",
        User::Ordinary,
        elsewhere,
    );
}
