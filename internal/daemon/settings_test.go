package daemon

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"l3af/internal/doc"
)

// Flags win over the file, the file over the defaults; every mistake is told.
func TestSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "l3afd.yaml")
	defaults := func() settings {
		s, err := parse(nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if d := defaults(); d.socket != DefaultSocket || d.listen != "" || d.environment != "PROD" || d.loopbackWrite != "off" || d.hostName == "" {
		t.Errorf("defaults: %+v", d)
	}
	with := func(change func(*settings)) settings {
		s := defaults()
		s.config = file
		change(&s)
		return s
	}
	for _, c := range []struct {
		config string
		args   []string
		want   settings
		err    string // part of it
		usage  bool
	}{
		{want: defaults()},
		{config: "socket: /a\nlisten: ':80'\nstate-dir: /b\nbpffs: /c\nlog-format: json", want: with(func(s *settings) {
			s.socket, s.listen, s.stateDir, s.bpffs, s.logFormat = "/a", ":80", "/b", "/c", "json"
		})},
		{config: "socket: /a\nstate-dir: /b", args: []string{"-socket", "/x", "--bpffs=/y"}, want: with(func(s *settings) {
			s.socket, s.stateDir, s.bpffs = "/x", "/b", "/y"
		})},
		{config: `{"socket": "/a"}`, args: []string{"-socket", DefaultSocket}, want: with(func(*settings) {})},
		{config: "swagger: true\nmonitor-samples: 5\nagent-poll-interval: 1m\ntls-cert: /c\ntls-key: /k\ntls-client-ca: /ca\ntls-san-rules: [a, 'b,c']",
			want: with(func(s *settings) {
				s.swagger, s.monitorSamples, s.agentPoll, s.tlsSANRules = true, 5, time.Minute, list{"a", "b,c"}
				s.tlsCert, s.tlsKey, s.tlsClientCA = "/c", "/k", "/ca"
			})},
		{config: "sokcet: /a\nlisten: 80\nswagger: 1\nmonitor-samples: many\ntls-san-rules: [1]\nagent-poll-interval: 5\nversion: 'yes'",
			err: "agent-poll-interval: must be a time such as 30s or 5m\nlisten: must be text\nmonitor-samples: \"many\" is not a number\n" +
				"sokcet: unknown key (did you mean \"socket\"?)\nswagger: must be true or false\ntls-san-rules: must be a list of texts\nversion: unknown key"},
		{config: "- socket", err: "must be keys and values"},
		{config: "socket: /a\nsocket: /b", err: "socket"},
		{config: "log-format: xml", err: `log-format "xml": must be text or json`, usage: true},
		{args: []string{"-tls-cert", "c"}, err: "tls-cert and tls-key belong together", usage: true},
		{args: []string{"-tls-client-ca", "c"}, err: "need tls-cert", usage: true},
		{args: []string{"-monitor-samples", "0"}, err: "monitor-samples is out of range", usage: true},
		{args: []string{"-config", filepath.Join(t.TempDir(), "none")}, err: "no such file"},
		{args: []string{"-sokcet", "x"}, err: "-sokcet", usage: true},
		{args: []string{"start"}, err: `unexpected argument "start"`, usage: true},
		{args: []string{"-bpffs", ""}, err: "bpffs is empty", usage: true},
	} {
		args := c.args
		if c.config != "" {
			if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			args = append([]string{"-config", file}, args...)
		}
		got, err := parse(args)
		if c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)) {
			t.Errorf("%q %q: got %+v, %v, want %+v", c.config, c.args, got, err, c.want)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || errors.As(err, new(errUsage)) != c.usage) {
			t.Errorf("%q %q: error %v, want %q (usage %v)", c.config, c.args, err, c.err, c.usage)
		}
	}
}

// L3AF's variable says the level of the log where nothing else does.
func TestLogLevel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "l3afd.yaml")
	if err := os.WriteFile(file, []byte("log-level: warn"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		variable string
		args     []string
		want     string
		notes    int
	}{
		{"", nil, "info", 0},
		{"debug", nil, "debug", 0},
		{"TRACE", nil, "debug", 0},
		{"disabled", nil, "error", 0},
		{"loud", nil, "info", 1},
		{"debug", []string{"-log-level", "error"}, "error", 0},
		{"debug", []string{"-config", file}, "warn", 0},
	} {
		t.Setenv("L3AF_LOG_LEVEL", c.variable)
		s, err := parse(c.args)
		if err != nil || s.logLevel != c.want || len(s.notes) != c.notes {
			t.Errorf("%q %q: %q, notes %q, %v, want %q", c.variable, c.args, s.logLevel, s.notes, err, c.want)
		}
		log := s.logger(io.Discard)
		if got := log.Enabled(t.Context(), slog.LevelDebug); got != (c.want == "debug") {
			t.Errorf("%q: debug messages are written: %v", c.want, got)
		}
	}
	if _, err := parse([]string{"-log-level", "loud"}); err == nil || !strings.Contains(err.Error(), `log-level "loud": must be debug or info or warn or error`) {
		t.Error(err)
	}
}

// Every key of the file is in the help, and the other way round.
func TestUsage(t *testing.T) {
	fs := new(settings).flags()
	fs.SetOutput(new(bytes.Buffer))
	for _, line := range strings.Split(usage, "\n") {
		name, ok := strings.CutPrefix(line, "  -")
		if name, _, _ = strings.Cut(name, " "); ok && fs.Lookup(name) == nil {
			t.Errorf("the help has -%s, which is no flag", name)
		}
	}
	for _, name := range strings.Split("config version "+strings.Join(keysOf(fs), " "), " ") {
		if !strings.Contains(usage, "\n  -"+name+" ") {
			t.Errorf("-%s is not in the help", name)
		}
	}
}

const iniFile = `# as L3AF's own sample, with what people add
[l3afd]
pid-file: /run/l3afd.pid
datacenter: dummy
bpf-dir: /dev/shm
bpf-log-dir:
kernel-major-version: 5
file-log-location: /var/log/l3afd.log
file-log-max-size: 50
json-format-logs: true
http-client-timeout: 10s
bpf-chaining-enabled: true
swagger-api-enabled: false
environment: TEST
BpfMapDefaultPath: /sys/fs/bpf
bpf-dri: /x

[ebpf-repo]
url: http://repo.example/

[web]
metrics-addr: 0.0.0.0:8898
ebpf-poll-interval: 5s
n-metric-samples: 7

[xdp-root]
package-name: xdp-root
artifact: l3af_xdp_root.tar.gz

[ebpf-chain-debug]
addr: localhost:8899
enabled: true

[l3af-configs]
restapi-addr: localhost:7080

[l3af-config-store]
filename: /etc/l3af/l3af-config.json

[mtls]
enabled: ENABLED

[graceful-restart]
restart-artifacts-url: file:///srv/l3afd
time-to-restart: 9
version-limit: 12

[extra]
key: value
`

// A configuration file of L3AF 2 is read as it is, or printed as ours: both
// give the same settings.
func TestINI(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		mtls  string // the section's keys
		want  func(*settings)
		notes string // about TLS
		err   string // all of it
	}{
		{mtls: "false", want: func(s *settings) { s.loopbackWrite = "root" },
			notes: "[mtls] enabled is false: over TCP only root's processes on this host may write (loopback-write: root), others read\n"},
		{mtls: "true\ncert-dir: /etc/l3af/certs\nserver-crt-filename: s.crt\nsan-match-rules: a.example, ^b-[0-9]+\\.example$\nmin-tls-version: TLS_1_3",
			want: func(s *settings) {
				s.tlsCert, s.tlsKey, s.tlsClientCA = "/etc/l3af/certs/s.crt", "/etc/l3af/certs/server.key", "/etc/l3af/certs/ca.pem"
				s.tlsSANRules, s.tlsMinVersion = list{"a.example", `^b-[0-9]+\.example$`}, "1.3"
			}},
		{mtls: "\ncert-dir: /c\n[mTLS]\nmin-tls-version: TLS_1.2\n[mtls]\nenabled: yes\nsan-match-rules:\n",
			want:  func(s *settings) { s.tlsCert, s.tlsKey, s.tlsClientCA = "/c/server.crt", "/c/server.key", "/c/ca.pem" },
			notes: "line 46: [mtls] enabled was given in line 41 already: the last one counts\nline 56: unknown section [extra] is ignored\n[mtls] san-match-rules is empty: every certificate of the CA is taken\n"},
		{mtls: "perhaps\nmin-tls-version: TLS_1.0\ncert-expiry-warning-days: soon",
			err: "line 41: [mtls] enabled: \"perhaps\" is neither true nor false\nline 43: [mtls] cert-expiry-warning-days: \"soon\" is not a number from 0\n" +
				"[mtls] min-tls-version: \"TLS_1.0\" is neither TLS_1.2 nor TLS_1.3"},
	} {
		text := strings.Replace(iniFile, "ENABLED", c.mtls, 1)
		file, yaml := filepath.Join(dir, "l3afd.cfg"), filepath.Join(dir, "l3afd.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := parse([]string{"-config", file})
		if c.err != "" {
			if want := "config " + file + ": " + c.err; err == nil || err.Error() != want {
				t.Errorf("%q: error\n%v\nwant\n%s", c.mtls, err, want)
			}
			continue
		}
		want, _ := parse(nil)
		want.config, want.pidFile, want.logFile, want.logSize, want.logFormat = file, "/run/l3afd.pid", "/var/log/l3afd.log", 50, "json"
		want.packageTimeout, want.environment, want.packageRepo = 10*time.Second, "TEST", "http://repo.example/"
		want.metricsListen, want.agentPoll, want.monitorSamples = "0.0.0.0:8898", 5*time.Second, 7
		want.debugListen, want.listen, want.importing = "localhost:8899", "localhost:7080", "/etc/l3af/l3af-config.json"
		want.restartRepo, want.restartLimit, want.restartTimeout = "file:///srv/l3afd", 12, 9*time.Second
		c.want(&want)
		notes := strings.Join(got.notes, "\n") + "\n"
		got.notes = nil
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, %v, want %+v", c.mtls, got, err, want)
		}
		for _, n := range []string{
			"[l3afd] datacenter has no meaning here: nothing ever used it\n", "[xdp-root] has no meaning here: chains need no root program\n",
			"line 16: unknown key [l3afd] bpf-dri is ignored (did you mean \"bpf-dir\"?)\n", "unknown section [extra] is ignored\n",
			"[ebpf-repo] url http://repo.example/ is not https", "[web] metrics-addr 0.0.0.0:8898 is not loopback: whoever re", c.notes,
		} {
			if !strings.Contains(notes, n) {
				t.Errorf("%q: notes\n%s\nwithout %q", c.mtls, notes, n)
			}
		}

		var printed bytes.Buffer
		if err := migrate([]string{"migrate"}, strings.NewReader(text), &printed); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(yaml, printed.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := parse([]string{"-config", yaml})
		again.config = file
		if err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%s\ngives %+v, %v\nwant %+v", &printed, again, err, want)
		}
		if _, err := doc.Parse(printed.Bytes()); err != nil || !strings.HasPrefix(printed.String(), "# ") {
			t.Errorf("printed %s: %v", &printed, err)
		}
	}
	for _, c := range []struct {
		args []string
		in   string
		err  string
	}{
		{[]string{"migrate"}, "socket: /a", "config migrate: standard input has no sections: it is not a configuration file of L3AF 2"},
		{[]string{"migrate", filepath.Join(dir, "none")}, "", "no such file"},
		{[]string{"show"}, "", "l3afd config migrate [FILE]"},
		{[]string{"migrate"}, "[web]\nn-metric-samples: 0\n", "config migrate: standard input: monitor-samples is out of range"},
	} {
		if err := migrate(c.args, strings.NewReader(c.in), new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: error %v, want %q", c.args, err, c.err)
		}
	}
}

// Whatever an INI file says, it is settings or an error.
func FuzzINI(f *testing.F) {
	f.Add(iniFile)
	f.Add("[mtls]\nenabled: no\n[l3af-configs]\nrestapi-addr: [::]:1\n")
	f.Fuzz(func(t *testing.T, text string) {
		keys, notes, err := fromINI([]byte(text))
		if err != nil {
			return
		}
		for _, n := range notes {
			if n == "" {
				t.Error("an empty note")
			}
		}
		s := new(settings)
		if err := set(s.flags(), keys, nil); err != nil {
			t.Errorf("our own keys %v are refused: %v", keys, err)
		}
	})
}
