package main

import (
	"fmt"
	"strings"
	"testing"
)

const managed = `
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          http_filters: [%s{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config: {%s virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {%s}}]}]}
  clusters: [{name: app, type: STATIC}]
%s`

// Routes of a file to clusters that it does not have are an error, as in Envoy: no cluster can come. Where one can, or the file asks not to
// look, requests say so.
func TestClustersOfAFile(t *testing.T) {
	const at = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].route"
	for _, c := range []struct{ table, route, rest, want string }{
		{"", "cluster: app", "", ""},
		{"", "cluster: ap", "", at + `.cluster: there is no cluster "ap" in static_resources.clusters, which has: app`},
		{"", "weighted_clusters: {clusters: [{name: app, weight: 1}, {name: b, weight: 1}]}", "", at + `.weighted_clusters.clusters[1].name: there is no cluster "b"`},
		{"", "cluster: app, request_mirror_policies: [{cluster: b}]", "", at + `.request_mirror_policies[0].cluster: there is no cluster "b"`},
		{"validate_clusters: false,", "cluster: ap", "", ""},
		{"validate_clusters: true,", "cluster: ap", "", `there is no cluster "ap"`},
		{"", "cluster_header: x-to", "", ""},
		{"", "cluster: ap", "dynamic_resources: {cds_config: {ads: {}}}", ""},
	} {
		_, err := parseBootstrap(fmt.Appendf(nil, managed, "", c.table, c.route, c.rest))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s %s: %v, want %q", c.table, c.route, c.rest, err, c.want)
		}
	}
}

// A type that is not linked in is no reason to refuse a file: what carries it knows whether it can do without.
func TestTypesThatNobodyKnows(t *testing.T) {
	for _, c := range []struct{ filter, want string }{
		{`{name: lua, is_optional: true, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, inline_code: "x", n: 12345678901234567890}}, `,
			`type_url:"type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"`},
		{`{name: own, is_optional: true, typed_config: {"@type": example.com/own.Filter}}, `, `type_url:"example.com/own.Filter"`},
	} {
		b, err := parseBootstrap(fmt.Appendf(nil, managed, c.filter, "", "cluster: app", ""))
		if err != nil {
			t.Errorf("%s: %v", c.filter, err)
			continue
		}
		if s := strings.Join(strings.Fields(b.String()), " "); !strings.Contains(s, c.want) {
			t.Errorf("%s is read as %s", c.filter, s)
		}
	}
	// What is known is still looked at, and places are those of the file.
	if _, err := parseBootstrap(fmt.Appendf(nil, managed, "", "", "clusters: app", "")); err == nil || !strings.Contains(err.Error(), "route.clusters") {
		t.Errorf("%v, want the path of an unknown field", err)
	}
}
