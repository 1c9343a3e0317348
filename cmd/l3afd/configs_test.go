package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"l3af/internal/configs"
	"l3af/internal/testenv"
)

// The payload of L3AF's guide applies as it is, objects of the same names
// given: maps are where agents look for them, monitored counters have begun,
// the tracepoint that an object brings is attached, and all of it comes back.
func TestUpstreamPayload(t *testing.T) {
	testenv.Clean(t)
	testenv.Netns(t, "rx")
	testenv.Netns(t, "tx")
	testenv.Veth(t, testenv.End{Netns: "rx", Name: "enp0s3", Addrs: []string{"192.0.2.1/24"}}, testenv.End{Netns: "tx", Name: "v0", Addrs: []string{"192.0.2.2/24"}})
	u := newUpstream(t)
	u.more = append(u.more, "-host-name", "l3af-local-test")
	exporter := func(direction string) string {
		return "#!/bin/sh\ncd " + u.base() + "/tc/globals/enp0s3/ipfix-flow-exporter/latest || exit 1\n" +
			"[ -e " + direction + "_flow_record_info_map ] && [ -e last_" + direction + "_flow_record_info_map ] || exit 1\nexec sleep 1000\n"
	}
	u.pack("ratelimiting", "latest", "l3af_ratelimiting.tar.gz", []string{"ratelimiting.bpf.o"}, nil)
	u.pack("connection-limit", "latest", "l3af_connection_limit.tar.gz", []string{"connection_limit.bpf.o"}, map[string]string{"connection_limit": "#!/bin/sh\n" +
		"cd " + u.base() + "/enp0s3/connection-limit/latest && [ -e cl_conn_count ] && [ -e cl_tcp_conns ] && [ -e cl_conn_info ]\n"})
	u.pack("ipfix-flow-exporter", "latest", "l3af_bpf_ipfix.tar.gz", []string{"bpf_ipfix_ingress.bpf.o", "bpf_ipfix_egress.bpf.o"}, map[string]string{
		"bpf_ipfix_ingress": exporter("ingress"), "bpf_ipfix_egress": exporter("egress")})
	u.start()
	text, err := os.ReadFile("../../internal/configs/testdata/payload.json")
	if err != nil {
		t.Fatal(err)
	}
	s := newStream(t, "192.0.2.2", "192.0.2.1")
	s.carries(10, true)
	u.does("update", string(text))
	st := u.settled()
	if len(st.Chains) != 3 || len(st.Probes) != 1 || st.Probes[0].State != "running" || st.Probes[0].Attach != "tracepoint/sock/inet_sock_set_state" {
		t.Errorf("status %+v", st)
	}
	s.carries(10, true)
	for _, pin := range []string{
		"enp0s3/ratelimiting/latest/rl_config_map", "enp0s3/ratelimiting/latest/rl_window_map",
		"enp0s3/connection-limit/latest/cl_conn_count", "enp0s3/connection-limit/latest/cl_tcp_conns", "enp0s3/connection-limit/latest/cl_conn_info",
		"tc/globals/enp0s3/ipfix-flow-exporter/latest/ingress_flow_record_info_map",
		"tc/globals/enp0s3/ipfix-flow-exporter/latest/last_ingress_flow_record_info_map",
		"tc/globals/enp0s3/ipfix-flow-exporter/latest/egress_flow_record_info_map",
		"tc/globals/enp0s3/ipfix-flow-exporter/latest/last_egress_flow_record_info_map",
	} {
		if _, err := os.Stat(filepath.Join(u.base(), pin)); err != nil {
			t.Error(err)
		}
	}
	var got, want []configs.Interface
	u.get("/l3af/configs/v1", &got)
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("GET gives\n%+v\nwant\n%+v", got, want)
	}
	// It counts only what somebody has made.
	u.until("received packets are counted", func() error {
		for _, m := range u.chain("enp0s3", "xdp").Programs[0].Monitor {
			if m.Map == "rl_recv_count_map" && m.Value >= 10 {
				return nil
			}
		}
		s.send(10)
		return fmt.Errorf("%+v", u.chain("enp0s3", "xdp").Programs[0].Monitor)
	})
	_, metrics := u.call("GET", "/metrics", "")
	for _, line := range []string{
		`l3afd_BPFRunning{direction="xdpingress",ebpf_program="connection-limit",host="l3af-local-test",interface_name="enp0s3",ipv4_address="192.168.105.2",version="latest"} 1`,
		`l3afd_BPFRunning{direction="egress",ebpf_program="ipfix-flow-exporter",host="l3af-local-test",interface_name="enp0s3",ipv4_address="192.168.105.2",version="latest"} 1`,
		`l3afd_BPFRunning{direction="",ebpf_program="connection-limit_tracepoint_inet_sock_set_state",host="l3af-local-test",interface_name="",ipv4_address="",version=""} 1`,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("missing: %s", line)
		}
	}
	// The same again changes nothing; what is taken away is gone.
	was := u.settled()
	u.does("update", string(text))
	if now := u.settled(); now.Revision != was.Revision || now.Chains[0].ProgramID != was.Chains[0].ProgramID {
		t.Errorf("the same again: %+v", now)
	}
	u.does("update", `[{"host_name":"l3af-local-test","iface":"enp0s3","bpf_programs":{"xdp_ingress":[]}}]`)
	if st := u.settled(); len(st.Chains)+len(st.Probes) > 0 {
		t.Errorf("left: %+v", st)
	}
	for _, dir := range []string{"enp0s3", "tc"} {
		if _, err := os.Stat(filepath.Join(u.base(), dir)); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
	s.carries(10, true)
}
