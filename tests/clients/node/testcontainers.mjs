// A test's container as testcontainers makes it: exposed port, wait strategy, copied files, exec, a network with aliases.
process.env.DOCKER_HOST = `unix://${process.argv[2]}`;
process.env.TESTCONTAINERS_RYUK_DISABLED = "true";
const { GenericContainer, Network, Wait } = await import("testcontainers");
const found = {};
const network = await new Network().start();
const web = await new GenericContainer("busybox:latest")
  .withCopyContentToContainer([{ content: "copied", target: "/w/index.html" }])
  .withCommand(["httpd", "-f", "-v", "-p", "80", "-h", "/w"])
  .withExposedPorts(80)
  .withNetwork(network)
  .withNetworkAliases("web")
  .withWaitStrategy(Wait.forHttp("/", 80))
  .start();
found.page = await (await fetch(`http://127.0.0.1:${web.getMappedPort(80)}/`)).text();
const ran = await web.exec(["sh", "-c", "echo in; exit 3"]);
found.exec = [ran.output, ran.exitCode];
const client = await new GenericContainer("busybox:latest")
  .withCommand(["sh", "-c", "wget -qO- http://web/ && echo && echo ready && sleep 60"])
  .withNetwork(network)
  .withWaitStrategy(Wait.forLogMessage("ready"))
  .start();
found.neighbour = (await client.exec(["wget", "-qO-", "http://web/"])).output;
await client.stop({ timeout: 0 });
await web.stop({ timeout: 0 });
await network.stop();
console.log(JSON.stringify(found));
process.exit(0);
