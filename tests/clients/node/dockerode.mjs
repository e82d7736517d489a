// What programs do with dockerode: run, attach, exec, files, logs, events, statistics.  Prints one JSON object.
import { PassThrough } from "node:stream";
import { buffer, text } from "node:stream/consumers";
import Docker from "dockerode";

const docker = new Docker({ socketPath: process.argv[2] });
const found = {};
const HostConfig = { NetworkMode: "none" };

function split(stream) {
  const out = new PassThrough(), err = new PassThrough();
  docker.modem.demuxStream(stream, out, err);
  stream.on("end", () => { out.end(); err.end(); });
  return Promise.all([text(out), text(err)]);
}

found.version = (await docker.version()).ApiVersion;
found.images = (await docker.listImages()).flatMap((image) => image.RepoTags).includes("busybox:latest");

const events = await docker.getEvents({ filters: { type: ["container"], label: ["by=dockerode"] } });
const seen = [];
events.on("data", (chunk) => {
  for (const line of chunk.toString().split("\n").filter(Boolean)) seen.push(JSON.parse(line).Action.split(":")[0]);
});

// docker.run: create, attach, start, wait
const sink = new PassThrough();
const whole = text(sink);
const [ended, ran] = await docker.run("busybox", ["sh", "-c", "echo to a terminal"], sink, { HostConfig, Tty: true });
found.run = [ended.StatusCode, await whole];
await ran.remove();

// an attached program reads what is written to it and sees the end of it
const cat = await docker.createContainer({
  Image: "busybox", Cmd: ["cat"], OpenStdin: true, StdinOnce: true, AttachStdin: true, HostConfig,
  Labels: { by: "dockerode" }, name: "node-cat",
});
const stream = await cat.attach({ stream: true, stdin: true, stdout: true, stderr: true, hijack: true });
const answer = split(stream);
await cat.start();
stream.write("line one\n");
stream.end("line two\n");
found.cat = await answer;
found.catExit = (await cat.wait()).StatusCode;
await cat.remove();

const box = await docker.createContainer({
  Image: "busybox", Cmd: ["sh", "-c", "echo out; echo err >&2; exec sleep 60"], HostConfig, Labels: { by: "dockerode" },
});
await box.start();
const exec = await box.exec({ Cmd: ["sh", "-c", "read x; echo got $x; exit 5"], AttachStdin: true, AttachStdout: true });
const session = await exec.start({ hijack: true, stdin: true });
const said = split(session);
session.end("this\n");
found.exec = (await said)[0];
found.execExit = (await exec.inspect()).ExitCode;
const logs = docker.modem.demuxStream && (await box.logs({ stdout: true, stderr: false }));
found.logs = logs.subarray(8).toString();
const follow = await box.logs({ stdout: true, stderr: true, follow: true, tail: 1 });
const followed = split(follow);
found.stats = (await box.stats({ stream: false })).memory_stats.usage > 0;
const inside = await buffer(await box.getArchive({ path: "/etc/passwd" }));
found.archive = inside.toString().includes("root:x:0:0");
await box.putArchive(inside, { path: "/tmp" });
found.top = (await box.top()).Processes.length;
await box.kill();
found.wait = (await box.wait()).StatusCode;
found.followed = (await followed).map((part) => part.length > 0);
await box.remove();
try {
  await docker.getContainer("nosuch").inspect();
} catch (error) {
  found.missing = [error.statusCode, error.json.message];
}
await new Promise((done) => setTimeout(done, 50));
events.destroy();
found.events = seen.filter((action) => !action.startsWith("exec") && action !== "top");
console.log(JSON.stringify(found));
