package doctor

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/client"
	"l3af/internal/api"
	"l3af/internal/api/apitest"
	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

// patient is a real machine with a daemon that says what the test wants.
type patient struct {
	testing.TB
	node   apitest.Node
	socket string
	bpffs  string
}

func newPatient(t testing.TB) *patient {
	p := &patient{TB: t, socket: filepath.Join(t.TempDir(), "l3afd.sock"), bpffs: testenv.Bpffs(t)}
	l, err := api.Listen(p.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.New(&p.node, api.Options{}).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return p
}

// examine says what is found, a line for each finding: level, check, message, fix.
func (p *patient) examine(ctx context.Context) []string {
	c := &client.Client{Socket: p.socket}
	var lines []string
	for _, f := range Examine(ctx, Machine{Client: c, Bpffs: p.bpffs}) {
		lines = append(lines, strings.TrimSpace(strings.Join([]string{string(f.Level), f.Check, f.Message, f.Fix}, " ")))
	}
	return lines
}

// program loads one that does nothing, for the length of the test.
func (p *patient) program(kind ebpf.ProgramType, name string) *ebpf.Program {
	p.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: kind, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { prog.Close() })
	return prog
}

// ingress attaches a program at TCX of an interface, behind those that are there.
func (p *patient) ingress(prog *ebpf.Program, ns, name string) link.Link {
	p.Helper()
	index := testenv.Interface(p, ns, name).Index
	var l link.Link
	var err error
	testenv.In(p, ns, func() {
		l, err = link.AttachTCX(link.TCXOptions{Program: prog, Interface: index, Attach: ebpf.AttachTCXIngress})
	})
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { l.Close() })
	return l
}

func (p *patient) pin(o interface{ Pin(string) error }, place string) {
	p.Helper()
	place = filepath.Join(p.bpffs, place)
	if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
		p.Fatal(err)
	}
	if err := o.Pin(place); err != nil {
		p.Fatal(err)
	}
}

// hold has another process hold a link.
func (p *patient) hold(l link.Link) {
	p.Helper()
	fd, err := unix.Dup(l.(interface{ FD() int }).FD())
	if err != nil {
		p.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "link")
	defer f.Close()
	p.start(f)
}

// start starts a process that does nothing and has a file open.
func (p *patient) start(f *os.File) (pid int) {
	p.Helper()
	cmd := exec.Command("sleep", "60")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

func id(t testing.TB, p *ebpf.Program) uint32 {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return uint32(id)
}

func (p *patient) tool(args ...string) {
	p.Helper()
	if out, err := exec.Command(testenv.Tool(p, args[0]), args[1:]...).CombinedOutput(); err != nil {
		p.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// running is what the daemon says of a chain of its that runs as wanted.
func running(ns, name string, kind l3af.HookKind, program uint32) l3af.ChainStatus {
	return l3af.ChainStatus{Netns: ns, Interface: name, Hook: kind, State: l3af.Running, ID: "3f2a9c41d0", ProgramID: program}
}

// Each row makes one thing wrong. What is wanted is found once each; of what is
// not wanted there is nothing.
func TestExamine(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*patient)
		want  []string
		not   []string
	}{{
		name: "nothing",
		spoil: func(p *patient) {
			testenv.Veth(p, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
			prog := p.program(ebpf.SchedCLS, "ours")
			p.ingress(prog, "", "v0")
			p.node.Report.Chains = []l3af.ChainStatus{running("", "v0", l3af.TCIngress, id(p, prog))}
		},
		want: []string{`^ok daemon l3afd answers; revision 0 is in force$`, `^ok hooks nothing is wrong$`, `^ok state nothing is wrong$`, `^ok kernel Linux `},
		not:  []string{`^(warning|problem) (daemon|state|pins|hooks|limits|mounts)`},
	}, {
		name: "leaked pins",
		spoil: func(p *patient) {
			testenv.Veth(p, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
			p.pin(p.ingress(p.program(ebpf.SchedCLS, "ours"), "", "v0"), "hooks/v0/tc-ingress/link")
			p.pin(p.ingress(p.program(ebpf.SchedCLS, "ours"), "", "v1"), "hooks/v1/tc-ingress/link")
			p.pin(p.ingress(p.program(ebpf.SchedCLS, "ours"), "", "v1"), "probes/exec/link")
			p.node.Report.Chains = []l3af.ChainStatus{running("", "v1", l3af.TCIngress, 1)}
		},
		want: []string{
			`^warning pins pins of tc-ingress/v0 are left below .*, and the state does not have it l3afd removes them within 30 s`,
			`^warning pins pins of probe/exec are left`,
		},
		not: []string{`pins of tc-ingress/v1`},
	}, {
		name: "what a glob wanted",
		spoil: func(p *patient) {
			testenv.Veth(p, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
			p.pin(p.ingress(p.program(ebpf.SchedCLS, "ours"), "", "v0"), "hooks/v0/tc-ingress/link")
			p.node.Report.Chains = []l3af.ChainStatus{{Interface: "w*", Hook: l3af.TCIngress, State: l3af.Waiting}}
		},
		want: []string{`^note state tc-ingress/w\* waits: the interface is not there yet$`},
		not:  []string{`pins of`},
	}, {
		name: "links without an interface",
		spoil: func(p *patient) {
			testenv.Veth(p, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
			ours, theirs, held := p.program(ebpf.SchedCLS, "ours"), p.program(ebpf.SchedCLS, "theirs"), p.program(ebpf.SchedCLS, "held")
			p.pin(p.ingress(ours, "", "v0"), "hooks/v0/tc-ingress/link")
			p.pin(p.ingress(theirs, "", "v0"), "team/link")
			p.hold(p.ingress(held, "", "v1"))
			testenv.DeleteLink(p, "", "v0")
			p.node.Report.Chains = []l3af.ChainStatus{{Interface: "v0", Hook: l3af.TCIngress, State: l3af.Waiting}}
		},
		want: []string{
			`^note pins the link of tc-ingress/v0 \(\d+\) holds nothing any more: its interface went, or somebody detached it l3afd attaches the chain anew when the interface is there$`,
			`^note pins link \d+ \(tcx\) holds nothing any more, since its interface went or somebody detached it, and is pinned at .*/team/link rm .*/team/link$`,
			`^note pins link \d+ \(tcx\) holds nothing any more, since its interface went or somebody detached it, and is held by sleep \(\d+\) it goes when they close it$`,
		},
	}, {
		name: "programs of others at our hooks",
		spoil: func(p *patient) {
			testenv.Netns(p, "blue")
			testenv.Veth(p, testenv.End{Netns: "blue", Name: "v0"}, testenv.End{Name: "v1"})
			prog := p.program(ebpf.SchedCLS, "ours")
			p.ingress(p.program(ebpf.SchedCLS, "first"), "blue", "v0")
			p.ingress(prog, "blue", "v0")
			p.ingress(p.program(ebpf.SchedCLS, "last"), "blue", "v0")
			p.ingress(p.program(ebpf.SchedCLS, "elsewhere"), "", "v1")
			gate, err := filepath.Abs("../kernel/testdata/gate.bpf.o")
			if err != nil {
				p.Fatal(err)
			}
			p.tool("ip", "netns", "exec", "blue", "tc", "qdisc", "add", "dev", "v0", "clsact")
			p.tool("ip", "netns", "exec", "blue", "tc", "filter", "add", "dev", "v0", "ingress", "bpf", "da", "obj", gate, "sec", "tc")
			p.node.Report.Chains = []l3af.ChainStatus{running("blue", "v0", l3af.TCIngress, id(p, prog))}
		},
		want: []string{
			`^note hooks tc-ingress/blue:v0: program first \(\d+\) of others runs before the chain`,
			`^warning hooks tc-ingress/blue:v0: program last \(\d+\) of others stands behind the chain, and never sees packets whose verdict is ok`,
			`^warning hooks tc-ingress/blue:v0: a filter of others, .*\[tc\].*, stands behind the chain`,
		},
		not: []string{`elsewhere`, `program ours`},
	}, {
		name: "drift, and what does not run as wanted",
		spoil: func(p *patient) {
			s := &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{{
				Interface: "v0", Hook: l3af.XDP, Programs: []l3af.Program{{Name: "acl", Package: "builtin:acl"}},
			}}}
			if _, err := p.node.Apply(context.Background(), s, "test", -1); err != nil {
				p.Fatal(err)
			}
			p.node.Report = l3af.Status{
				Chains: []l3af.ChainStatus{
					{Interface: "v0", Hook: l3af.XDP, State: l3af.Failed, Error: "load: invalid argument\nverifier log"},
					{Interface: "v1", Hook: l3af.XDP, State: l3af.Running, ModeNote: "the driver refused it"},
				},
				Probes: []l3af.ProbeStatus{{Name: "exec", State: l3af.Failed, Error: "no such tracepoint"}},
				Errors: []string{"state file: damaged"},
			}
		},
		want: []string{
			`^warning state xdp/v0 is not as the state says: l3afd would attach l3afd mends it`,
			`^problem state xdp/v0 failed: load: invalid argument … l3af status has the whole story$`,
			`^problem state probe/exec failed: no such tracepoint`,
			`^warning state xdp/v1 runs in generic mode: the driver refused it`,
			`^problem daemon state file: damaged`,
		},
	}, {
		name:  "mounts",
		spoil: func(p *patient) { p.bpffs = filepath.Join(p.TempDir(), "l3af") },
		want:  []string{`^note mounts bpffs is not mounted for .*/l3af l3afd mounts it at its start, or: mount -t bpf bpf /sys/fs/bpf$`},
	}, {
		name:  "several mounts",
		spoil: func(p *patient) { testenv.Bpffs(p) },
		want:  []string{`^note mounts bpffs is mounted at /sys/fs/bpf, \S+, \S+: pins in one are not in the others$`},
	}, {
		name: "limits",
		spoil: func(p *patient) {
			var was unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
				p.Fatal(err)
			}
			p.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &was) })
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 512, Max: was.Max}); err != nil {
				p.Fatal(err)
			}
		},
		want: []string{`^warning limits l3afd may open only 512 files: .* ulimit -n 65536`},
	}, {
		name: "a daemon that does not answer",
		spoil: func(p *patient) {
			testenv.Veth(p, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
			p.pin(p.ingress(p.program(ebpf.SchedCLS, "ours"), "", "v0"), "hooks/v0/tc-ingress/link")
			p.socket += ".gone"
		},
		want: []string{
			`^problem daemon chains run, and l3afd does not answer: .* start l3afd, which looks after them`,
			`^note state not looked at: l3afd does not answer$`, `^note hooks not looked at: l3afd does not answer$`,
		},
		not: []string{`pins of`}, // nobody says what is wanted
	}} {
		t.Run(c.name, func(t *testing.T) {
			testenv.Clean(t)
			testenv.Root(t)
			p := newPatient(t)
			c.spoil(p)
			found := p.examine(context.Background())
			all := strings.Join(found, "\n")
			for _, want := range c.want {
				if n := len(regexp.MustCompile("(?m)"+want).FindAllString(all, -1)); n == 0 {
					t.Errorf("%s was not found in:\n%s", want, all)
				} else if n > 1 {
					t.Errorf("%s was found %d times in:\n%s", want, n, all)
				}
			}
			for _, not := range c.not {
				if s := regexp.MustCompile("(?m)" + not).FindString(all); s != "" {
					t.Errorf("%q was found", s)
				}
			}
		})
	}
}

// An examination that is cut short is a problem, and the rest is left out.
func TestExamineCutShort(t *testing.T) {
	testenv.Root(t)
	p := newPatient(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	found := p.examine(ctx)
	if last := found[len(found)-1]; last != "problem kernel the examination was cut short: context canceled" {
		t.Errorf("the last is %q", last)
	}
}

// The worst of findings, whatever their order.
func TestWorst(t *testing.T) {
	for _, c := range []struct {
		levels []Level
		want   Level
	}{
		{nil, OK}, {[]Level{OK, OK}, OK}, {[]Level{Note, OK}, Note}, {[]Level{Note, Warning, OK}, Warning}, {[]Level{Problem, Warning}, Problem},
	} {
		var findings []Finding
		for _, l := range c.levels {
			findings = append(findings, Finding{Level: l})
		}
		if got := Worst(findings); got != c.want {
			t.Errorf("%q: %s, want %s", c.levels, got, c.want)
		}
	}
}

// Who listens is found after the socket was handed on, too.
func TestListener(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "l3afd.sock")
	e := &examination{Machine: Machine{Client: &client.Client{Socket: socket}}}
	if got := e.listener(); got != 0 {
		t.Errorf("process %d listens already", got)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := e.listener(); got != os.Getpid() {
		t.Errorf("process %d listens, want %d", got, os.Getpid())
	}
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	next := (&patient{TB: t}).start(f)
	f.Close()
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if got := e.listener(); got != next {
		t.Errorf("process %d listens, want %d", got, next)
	}
}
