// Builds web/src into the one committed module, src/gossamer/show/view.js (or the path in GOSSAMER_VIEW_OUT).
import * as esbuild from "esbuild";
import { fileURLToPath } from "node:url";
import path from "node:path";

const here = path.dirname(fileURLToPath(import.meta.url));
const options = {
  absWorkingDir: here,
  entryPoints: ["src/view.ts"],
  outfile: process.env.GOSSAMER_VIEW_OUT ?? path.join(here, "../src/gossamer/show/view.js"),
  bundle: true,
  format: "esm",
  target: "es2021",
  charset: "utf8",
  legalComments: "none",
  loader: { ".css": "text" },
  banner: { js: "// Built from web/ by `npm run build`. Do not edit." },
  logLevel: "warning",
};

if (process.argv.includes("--watch")) {
  const context = await esbuild.context(options);
  await context.watch();
} else {
  await esbuild.build(options);
}
