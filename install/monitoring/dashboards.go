package monitoring

// Requests are counted by both sides. The server's count has what arrived; the caller's also
// what did not, so failures are looked for there.
const (
	arrived = `reporter="destination",destination_workload_namespace=~"$namespace",destination_service=~"$service"`
	called  = `reporter="source",destination_service_namespace=~"$namespace|unknown",destination_service=~"$service"`
)

var chosen = []variable{
	{"namespace", "destination_workload_namespace", "istio_requests_total"},
	{"service", "destination_service", "istio_requests_total"},
}

// latency are the quantiles of a service, in ms.
func latency(of string) []query {
	var out []query
	for _, q := range []string{"0.5", "0.9", "0.99"} {
		out = append(out, query{"histogram_quantile(" + q + ", sum by (le) (rate(istio_request_duration_milliseconds_bucket{" + of + "}[$__rate_interval])))", "p" + map[string]string{"0.5": "50", "0.9": "90", "0.99": "99"}[q]})
	}
	return out
}

func lines(expr, legend string) []query { return []query{{expr, legend}} }

var dashboards = []*dashboard{{
	file: "mesh", title: "Weir: mesh", about: "Who calls whom, how much of it fails, and how long it takes.", variables: chosen,
	rows: []row{
		{"The mesh", []panel{
			{title: "Requests", unit: "reqps", stat: true, queries: lines(`sum(rate(istio_requests_total{`+arrived+`}[$__rate_interval]))`, "")},
			{title: "Succeeded", about: "Of all requests, as callers saw them: no 5xx, and no answer of a proxy.", unit: "percentunit", stat: true,
				queries: lines(`sum(rate(istio_requests_total{`+called+`,response_code!~"5..|0"}[$__rate_interval])) / sum(rate(istio_requests_total{`+called+`}[$__rate_interval]))`, "")},
			{title: "Encrypted", about: "Requests that came over mutual TLS.", unit: "percentunit", stat: true,
				queries: lines(`sum(rate(istio_requests_total{`+arrived+`,connection_security_policy="mutual_tls"}[$__rate_interval])) / sum(rate(istio_requests_total{`+arrived+`}[$__rate_interval]))`, "")},
			{title: "Proxies", unit: "short", stat: true, queries: lines(`count(weir_proxy_ready)`, "")},
			{title: "Connections", about: "Open at proxies.", unit: "short", stat: true, queries: lines(`sum(weir_proxy_connections)`, "")},
		}},
		{"Services", []panel{
			{title: "Requests by service", unit: "reqps", queries: lines(`sum by (destination_service) (rate(istio_requests_total{`+arrived+`}[$__rate_interval]))`, "{{destination_service}}")},
			{title: "Failures by service", about: "As callers saw them. `weir why --last-errors SERVICE` says why.", unit: "reqps",
				queries: lines(`sum by (destination_service, response_code, response_flags) (rate(istio_requests_total{`+called+`,response_code=~"5..|0"}[$__rate_interval]))`, "{{destination_service}} {{response_code}} {{response_flags}}")},
			{title: "Failures by cause", about: "Requests and connections that a proxy answered or ended, or that failed, in the whole mesh, as caller's and server's proxies (reporter) saw it. `weir explain CAUSE` says what to do.", unit: "reqps",
				queries: lines(`sum by (cause, reporter) (rate(weir_proxy_failures_total[$__rate_interval]))`, "{{cause}} ({{reporter}})")},
			{title: "Latency", about: "At the server, its application included.", unit: "ms", queries: latency(arrived)},
			{title: "p99 by service", unit: "ms", queries: lines(`histogram_quantile(0.99, sum by (le, destination_service) (rate(istio_request_duration_milliseconds_bucket{`+arrived+`}[$__rate_interval])))`, "{{destination_service}}")},
			{title: "Calls by caller", unit: "reqps", queries: lines(`sum by (source_workload, destination_service) (rate(istio_requests_total{`+called+`}[$__rate_interval]))`, "{{source_workload}} → {{destination_service}}")},
			{title: "Versions", about: "How requests are split over workloads.", unit: "reqps", queries: lines(`sum by (destination_workload, destination_version) (rate(istio_requests_total{`+arrived+`}[$__rate_interval]))`, "{{destination_workload}} {{destination_version}}")},
			{title: "Bytes", about: "Of requests and responses, at the server.", unit: "Bps", queries: []query{
				{`sum(rate(istio_request_bytes_sum{` + arrived + `}[$__rate_interval]))`, "requests"}, {`sum(rate(istio_response_bytes_sum{` + arrived + `}[$__rate_interval]))`, "responses"}}},
		}},
	},
}, {
	file: "control-plane", title: "Weir: control plane", about: "Whether configuration arrives, and certificates do.",
	rows: []row{
		{"Configuration", []panel{
			{title: "Version", about: "Of the configuration in force.", unit: "none", stat: true, queries: lines(`max(weir_control_mesh_version)`, "")},
			{title: "Proxies connected", unit: "short", stat: true, queries: lines(`sum(pilot_xds)`, "")},
			{title: "Proxies behind", about: "Without the newest configuration, or refusing some of it: `weir proxy-status`.", unit: "short", stat: true, queries: lines(`sum(weir_control_behind)`, "")},
			{title: "Refused resources", unit: "short", stat: true, queries: lines(`sum(weir_control_rejected_resources)`, "")},
			{title: "Objects not in force", about: "Quarantined for an error: `weir status`.", unit: "short", stat: true, queries: lines(`max(weir_control_quarantined_objects)`, "")},
			{title: "Findings", about: "Of severity error: `weir analyze`.", unit: "short", stat: true, queries: lines(`max(weir_control_error_findings)`, "")},
		}},
		{"How fast", []panel{
			{title: "From a change to all proxies", unit: "s", queries: []query{
				{`histogram_quantile(0.5, sum by (le) (rate(pilot_proxy_convergence_time_bucket[$__rate_interval])))`, "p50"}, {`histogram_quantile(0.99, sum by (le) (rate(pilot_proxy_convergence_time_bucket[$__rate_interval])))`, "p99"}}},
			{title: "Pushes", unit: "ops", queries: lines(`sum by (type) (rate(pilot_xds_pushes[$__rate_interval]))`, "{{type}}")},
			{title: "Changes", unit: "ops", queries: lines(`sum by (type) (rate(pilot_inbound_updates[$__rate_interval]))`, "{{type}}")},
		}},
		{"Identity", []panel{
			{title: "Certificates", about: "Issued and not ended.", unit: "short", stat: true, queries: lines(`sum(weir_identity_certificates)`, "")},
			{title: "Overdue", about: "Workloads that should have renewed theirs: `weir identity`.", unit: "short", stat: true, queries: lines(`sum(weir_identity_overdue)`, "")},
			{title: "Root ends in", unit: "s", stat: true, queries: lines(`min(citadel_server_root_cert_expiry_timestamp) - time()`, "")},
			{title: "Certificates issued", unit: "ops", queries: lines(`sum(rate(citadel_server_success_cert_issuance_count[$__rate_interval]))`, "issued")},
			{title: "Requests refused", unit: "ops", queries: []query{
				{`sum(rate(citadel_server_authentication_failure_count[$__rate_interval]))`, "not authenticated"}, {`sum(rate(citadel_server_csr_sign_err_count[$__rate_interval]))`, "not signed"}, {`sum(rate(mesh_ca_requests_limited_total[$__rate_interval]))`, "too many"}}},
		}},
		{"What it takes", []panel{
			{title: "Processor", unit: "percentunit", queries: lines(`rate(process_cpu_seconds_total[$__rate_interval]) and on (instance) weir_control_mesh_version`, "{{instance}}")},
			{title: "Memory", unit: "bytes", queries: lines(`process_resident_memory_bytes and on (instance) weir_control_mesh_version`, "{{instance}}")},
			{title: "Edges known", about: "Who talks to whom, as proxies report it.", unit: "short", queries: lines(`sum(weir_control_observe_edges)`, "edges")},
		}},
	},
}, {
	file: "proxies", title: "Weir: proxies", about: "Sidecars and gateways as programs.",
	rows: []row{
		{"Health", []panel{
			{title: "Ready", unit: "short", stat: true, queries: lines(`sum(weir_proxy_ready)`, "")},
			{title: "Not ready", unit: "short", stat: true, queries: lines(`count(weir_proxy_ready) - sum(weir_proxy_ready)`, "")},
			{title: "First certificate ends in", unit: "s", stat: true, queries: lines(`min(weir_proxy_certificate_expiration_timestamp_seconds) - time()`, "")},
			{title: "Log lines lost", unit: "short", stat: true, queries: lines(`sum(weir_proxy_log_dropped_total)`, "")},
			{title: "Series full", about: "Requests counted without their workload, because a proxy had too many series.", unit: "short", stat: true, queries: lines(`sum(weir_proxy_series_overflow_total)`, "")},
		}},
		{"Nodes: where the CNI plugin makes the rules", []panel{
			{title: "Unprotected pods", about: "Whose traffic goes past their proxies: `weir analyze -A` names them first of all.", unit: "short", stat: true, queries: lines(`sum(weir_cni_unprotected_pods)`, "")},
			{title: "Nodes that capture nothing", about: "The CNI plugin is not installed there: new pods wait.", unit: "short", stat: true, queries: lines(`count(istio_cni_install_ready) - sum(istio_cni_install_ready)`, "")},
			{title: "Pods repaired", about: "That came without rules, by what was done about them.", unit: "ops", queries: lines(`sum by (type, result) (rate(istio_cni_repair_pods_repaired_total[$__rate_interval]))`, "{{type}} {{result}}")},
			{title: "Calls of the plugin", unit: "ops", queries: lines(`sum by (operation, result) (rate(istio_cni_plugin_requests_total[$__rate_interval]))`, "{{operation}} {{result}}")},
		}},
		{"By proxy", []panel{
			{title: "Connections", unit: "short", queries: lines(`topk(10, weir_proxy_connections)`, "{{instance}}")},
			{title: "Descriptors", unit: "short", queries: lines(`topk(10, sum by (instance) (weir_proxy_descriptors))`, "{{instance}}")},
			{title: "Refused connections", unit: "cps", queries: lines(`sum by (reason) (rate(weir_proxy_refused_connections_total[$__rate_interval]))`, "{{reason}}")},
			{title: "Configuration held on demand", unit: "bytes", queries: lines(`topk(10, weir_proxy_ondemand_held_bytes)`, "{{instance}}")},
			{title: "Waiting for configuration", about: "What the first request to a service waits.", unit: "s", queries: lines(`histogram_quantile(0.99, sum by (le) (rate(weir_proxy_ondemand_wait_seconds_bucket[$__rate_interval])))`, "p99")},
			{title: "Series of metrics", unit: "short", queries: lines(`topk(10, weir_proxy_series)`, "{{instance}}")},
		}},
	},
}}
