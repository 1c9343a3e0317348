package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"l3af"
	"l3af/internal/testenv"
)

// versions is a repository of versions of l3afd, and where they are unpacked.
type versions struct {
	testing.TB
	repo, base string
	binary     []byte // of the version that is tested
}

func newVersions(t testing.TB) *versions {
	t.Helper()
	v := &versions{TB: t, repo: t.TempDir(), base: t.TempDir()}
	var err error
	if v.binary, err = os.ReadFile(executable(t, "l3afd")); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *versions) flags() []string {
	return []string{"-restart-repo", "file://" + v.repo, "-restart-dir", v.base, "-restart-timeout", "20s"}
}

// put puts an archive where a version is looked for.
func (v *versions) put(version string, archive []byte) {
	v.Helper()
	dir := filepath.Join(v.repo, version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		v.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "l3afd.tar.gz"), archive, 0o644); err != nil {
		v.Fatal(err)
	}
}

// killsLast kills at the end of the test the daemon that took over.
func (u *upstream) killsLast() {
	first := u.pid()
	u.node.Cleanup(func() {
		if now := u.pid(); now != first && now > 0 {
			_ = syscall.Kill(now, syscall.SIGKILL)
		}
	})
}

// PUT restart: another binary takes over with no packet lost, and one that is
// no good does not.
func TestUpstreamRestart(t *testing.T) {
	testenv.Clean(t)
	wire(t)
	v := newVersions(t)
	base := v.base
	u := newUpstream(t, v.flags()...)
	binary, put := v.binary, v.put
	whole := archive(t, "l3afd", map[string]string{"l3afd": string(binary), "README": "another version"})
	put("v2.0.0", whole)
	put("v2.0.1", archive(t, "l3afd", map[string]string{"l3afd": "#!/bin/sh\nexit 1\n"}))
	put("v2.0.2", whole[:len(whole)/2])
	put("v2.0.3", archive(t, "l3afd", map[string]string{"other": "x"}))
	u.packCounting("1.0", "gate")
	u.pack("p", "1.0", "l3af_count.tar.gz", []string{"count.bpf.o"}, map[string]string{"daemon": "#!/bin/sh\nexec sleep 1000\n"})
	u.start()
	u.killsLast()
	bad, good := newStream(t, "192.0.2.66", "192.0.2.1"), newStream(t, "192.0.2.2", "192.0.2.1")
	good.carries(10, true)
	u.does("update", xdpList(counting("p", 1, fields{"cmd_start": "daemon", "user_program_daemon": true}),
		counting("gate", 5, fields{"map_args": []fields{{"name": "count_ports", "args": []fields{{"key": bad.in.LocalAddr().(*net.UDPAddr).Port, "value": 1}}}}})))
	was, agent := u.chain("v0", l3af.XDP), u.agent("p")
	noRoom := dropped(t)
	bad.flow(5)
	good.flow(10)
	for _, c := range []struct {
		version string
		status  int
		says    string
	}{
		{"2.0.0", 422, "failed to getNewVersion: version \"2.0.0\": want vX.Y.Z"},
		{"v2.0.101", 422, "no number may be above 100"},
		{"v9.9.9", 404, "failed to getNewVersion: "},
		{"v2.0.2", 422, "damaged"},
		{"v2.0.3", 422, "the archive has no file l3afd"},
		{"v2.0.1", 503, "hand over: "},
		{"v2.0.0", 200, ""},
	} {
		before := u.pid()
		status, answer := u.call("PUT", "/l3af/configs/v1/restart", fmt.Sprintf(`{"hostname":"host","version":%q}`, c.version))
		if answer = strings.ReplaceAll(answer, `\"`, `"`); status != c.status || !strings.Contains(answer, c.says) || status == 200 && answer != "" {
			t.Errorf("%s: %d %s, want %d %q", c.version, status, answer, c.status, c.says)
		}
		u.settled()
		now := u.chain("v0", l3af.XDP)
		if (u.pid() != before) != (c.status == 200) || now.ProgramID != was.ProgramID || now.Programs[0].Packets < was.Programs[0].Packets || u.agent("p") != agent {
			t.Errorf("%s: process %d, was %d; chain %+v, was %+v", c.version, u.pid(), before, now, was)
		}
		was = now
	}
	bad.halt()
	good.halt()
	if to, err := os.Readlink(filepath.Join(base, "latest", "l3afd")); err != nil || to != filepath.Join(base, "v2.0.0", "l3afd") {
		t.Errorf("latest leads to %s, %v", to, err)
	}
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", u.pid())); err != nil || exe != filepath.Join(base, "v2.0.0", "l3afd") {
		t.Errorf("%s runs, %v", exe, err)
	}
	if got := bad.arrived(); got != 0 {
		t.Errorf("%d of %d packets leaked past the gate", got, bad.sent.Load())
	}
	if lost, noRoom := good.sent.Load()-good.arrived(), dropped(t)-noRoom; lost > noRoom {
		t.Errorf("%d packets lost", lost)
	}
	u.does("update", xdpList())
	u.endsLast()
}

// endsLast ends the daemon that took over.
func (u *upstream) endsLast() {
	u.Helper()
	last := u.pid()
	if err := syscall.Kill(last, syscall.SIGTERM); err != nil {
		u.node.Fatal(err)
	}
	u.until("the last one ends", func() error {
		if err := syscall.Kill(last, 0); err == nil {
			return fmt.Errorf("%d runs", last)
		}
		return nil
	})
}

// What PUT restart starts reads the configuration file that came with the
// version, wherever the one before was, and the same file as before where none
// came. From then on SIGHUP hands over to what is found under latest.
func TestUpstreamRestartConfiguration(t *testing.T) {
	testenv.Clean(t)
	testenv.Netns(t, "rx")
	v := newVersions(t)
	const cfg = "[l3afd]\nswagger-api-enabled: %t\n[l3af-configs]\nrestapi-addr: localhost:7080\n[mtls]\nenabled: false\n"
	config := filepath.Join(t.TempDir(), "conf.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(config, "swagger: false\n")
	pack := func(version, cfg string) {
		t.Helper()
		files := map[string]string{"l3afd": string(v.binary)}
		if cfg != "" {
			files["l3afd.cfg"] = cfg
		}
		v.put(version, archive(t, "l3afd", files))
	}
	pack("v2.0.0", fmt.Sprintf(cfg, true))
	pack("v2.0.1", "[l3afd]\nswagger-api-enabled: perhaps\n")
	pack("v2.0.2", "")
	u := newUpstream(t, append(v.flags(), "-config", config)...)
	u.start()
	u.killsLast()
	// is checks what runs, and whether its configuration file has the page served.
	is := func(what, binary string, swagger bool) {
		t.Helper()
		// The old daemon may answer a moment before the new one is on record.
		u.until(what, func() error {
			exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", u.pid()))
			if err == nil && exe != binary {
				err = fmt.Errorf("%s runs", exe)
			}
			return err
		})
		if status, _ := u.call("GET", "/swagger/doc.json", ""); (status == 200) != swagger {
			t.Errorf("%s: the page: %d", what, status)
		}
	}
	put := func(version string, want int) {
		t.Helper()
		if status, answer := u.call("PUT", "/l3af/configs/v1/restart", fmt.Sprintf(`{"hostname":"host","version":%q}`, version)); status != want {
			t.Fatalf("%s: %d %s", version, status, answer)
		}
	}
	reload := func() {
		t.Helper()
		old := u.pid()
		if err := syscall.Kill(old, syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		u.changes(old)
	}
	one, two, latest := filepath.Join(v.base, "v2.0.0", "l3afd"), filepath.Join(v.base, "v2.0.2", "l3afd"), filepath.Join(v.base, "latest")
	is("at first", executable(t, "l3afd"), false)
	put("v2.0.0", 200)
	is("a version with a file", one, true)
	put("v2.0.1", 503)
	is("one whose file is wrong", one, true)
	// Of the same version, too: latest leads to where it is put.
	v.put("v2.0.0", archive(t, "l3afd", map[string]string{"l3afd": "#!/bin/sh\nexit 1\n", "l3afd.cfg": "[l3afd]\nswagger-api-enabled: perhaps\n"}))
	put("v2.0.0", 503)
	if left, _ := filepath.Glob(filepath.Join(v.base, "v2.0.1", "*")); len(left) > 0 {
		t.Errorf("a version that is no good left %q", left)
	}
	reload()
	is("SIGHUP", one, true)
	put("v2.0.2", 200)
	is("one without a file", two, true)
	write(filepath.Join(latest, "l3afd.cfg"), fmt.Sprintf(cfg, false))
	reload()
	is("SIGHUP after its file was changed", two, false)
	if err := os.Remove(filepath.Join(latest, "l3afd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(one, filepath.Join(latest, "l3afd")); err != nil {
		t.Fatal(err)
	}
	reload()
	is("SIGHUP after latest was changed", one, false)
	if to, err := os.Readlink(filepath.Join(latest, "l3afd.cfg")); err != nil || to != filepath.Join(v.base, "v2.0.0", "l3afd.cfg") {
		t.Errorf("latest leads to %s, %v", to, err)
	}
	u.endsLast()
}
