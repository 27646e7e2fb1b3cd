package install

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// open are values that take any keys; everything else has the keys of the chart's
// values.yaml.
var open = []string{"meshConfig", "global.meshNetworks"}

// words are old settings that are not true or false.
var words = []string{"global.trustDomain", "global.pilotCertProvider", "global.logging"}

// old says what became of a setting of Istio's charts.
type old struct {
	key string
	// then is called with the setting's value and returns what to tell, or an error when the
	// installation would not be what was asked for.
	then func(values map[string]any, v any) (notice string, err error)
}

// olds lists them in the order of features.md A.7: the local cluster's, the remote
// cluster's, today's.
var olds = []old{
	{"security.selfSigned", func(_ map[string]any, v any) (string, error) {
		if truth(v) {
			return "", nil
		}
		return "security.selfSigned=false: the CA uses Secret cacerts (ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem) when it is there before the first start; it has no switch", nil
	}},
	{"mixer.telemetry.enabled", withoutMixer("telemetry is made by the proxies themselves and served for Prometheus")},
	{"mixer.policy.enabled", withoutMixer("there is no policy check on the way of a request; use AuthorizationPolicy")},
	{"mixer.enabled", withoutMixer("there is no Mixer")},
	{"global.useMCP", func(_ map[string]any, v any) (string, error) {
		if truth(v) {
			return "", refused("global.useMCP=true", "there is no Galley: the control plane reads the API server itself; leave it out")
		}
		return "", nil
	}},
	{"global.controlPlaneSecurityEnabled", func(_ map[string]any, v any) (string, error) {
		if truth(v) {
			return "", nil
		}
		return "global.controlPlaneSecurityEnabled=false: sidecars of this mesh always talk to the control plane over TLS; for those of Istio 1.0 written by hand set compatibilityVersion=1.0", nil
	}},
	{"global.meshExpansion.enabled", notYet("global.meshExpansion.enabled", "workloads outside the cluster")},
	{"global.createRemoteSvcEndpoints", notYet("global.createRemoteSvcEndpoints", "a control plane in another cluster")},
	{"global.remotePilotCreateSvcEndpoint", func(map[string]any, any) (string, error) {
		return "global.remotePilotCreateSvcEndpoint: Service and endpoint are made when global.remotePilotAddress is set", nil
	}},
	{"global.disablePolicyChecks", func(map[string]any, any) (string, error) {
		return "global.disablePolicyChecks: there are no policy checks that could be disabled", nil
	}},
	{"global.policyCheckFailOpen", func(map[string]any, any) (string, error) {
		return "global.policyCheckFailOpen: there are no policy checks that could fail", nil
	}},
	{"gateways.enabled", func(values map[string]any, v any) (string, error) {
		if truth(v) {
			return "", nil
		}
		put(values, "gateways.istio-ingressgateway.enabled", false)
		put(values, "gateways.istio-egressgateway.enabled", false)
		return "", nil
	}},
	{"global.enableTracing", func(values map[string]any, v any) (string, error) {
		put(values, "meshConfig.enableTracing", truth(v))
		return "", nil
	}},
	{"global.mtls.enabled", func(values map[string]any, v any) (string, error) {
		put(values, "mtls.enabled", truth(v))
		return "global.mtls.enabled becomes a PeerAuthentication for the whole mesh (STRICT, or PERMISSIVE); callers need no DestinationRule, they use mTLS wherever it is spoken", nil
	}},
	{"global.trustDomain", func(values map[string]any, v any) (string, error) {
		put(values, "meshConfig.trustDomain", v)
		return "", nil
	}},
	{"global.pilotCertProvider", func(_ map[string]any, v any) (string, error) {
		if name, ok := strings.CutPrefix(fmt.Sprint(v), "k8s.io/"); ok {
			return "", refused("global.pilotCertProvider", "the control plane's certificate is the mesh's own; say ca.signer="+name+" to have those of workloads made by that signer (docs/identity.md)")
		}
		return "", nil
	}},
	{"pilot.cni.enabled", cni("pilot.cni.enabled")},
	{"istio_cni.enabled", cni("istio_cni.enabled")},
	{"cni.chained", func(_ map[string]any, v any) (string, error) {
		if truth(v) {
			return "", nil
		}
		return "", refused("cni.chained=false", "the plugin makes no network: it comes behind the one that does; leave it out")
	}},
	{"global.logging", func(_ map[string]any, v any) (string, error) {
		m, _ := v.(map[string]any)
		if len(m) == 1 && (m["level"] == "" || m["level"] == "default:info" || m["level"] == "info") {
			return "", nil
		}
		return "", refused("global.logging", "the control plane logs from info on; say global.proxy.logLevel for proxies, cni.logging.level for the node agent")
	}},
	{"global.logAsJson", notYet("global.logAsJson", "logs in JSON")},
	{"istiodRemote", notYet("istiodRemote", "a control plane in another cluster")},
	{"kiali", notPart("kiali")}, {"tracing", notPart("tracing")}, {"grafana", notPart("grafana")}, {"prometheus", notPart("prometheus")},
}

func withoutMixer(why string) func(map[string]any, any) (string, error) {
	return func(_ map[string]any, v any) (string, error) {
		if truth(v) {
			return "", refused("mixer", "there is no Mixer to install: "+why+"; leave it out")
		}
		return "", nil
	}
}

// cni is how Istio's chart of the control plane says that nodes make the rules; who makes
// them is another chart there.
func cni(key string) func(map[string]any, any) (string, error) {
	return func(values map[string]any, v any) (string, error) {
		put(values, "cni.enabled", truth(v))
		if !truth(v) {
			return "", nil
		}
		return key + " becomes cni.enabled: the node agent and its CNI plugin are installed, too", nil
	}
}

func notYet(key, what string) func(map[string]any, any) (string, error) {
	return func(_ map[string]any, v any) (string, error) {
		if v == false || v == "" || v == nil {
			return "", nil
		}
		return "", refused(key, what+" cannot be installed yet; leave it out")
	}
}

func notPart(name string) func(map[string]any, any) (string, error) {
	return func(_ map[string]any, v any) (string, error) {
		if m, _ := v.(map[string]any); m != nil && !truth(m["enabled"]) {
			return "", nil
		}
		return "", refused(name, "it is not part of this chart: install it by its own")
	}
}

func refused(key, why string) error { return fmt.Errorf("--set %s: %s", key, why) }

// translate rewrites what older charts called otherwise, in place.
func translate(values map[string]any) ([]string, error) {
	// istioctl's way to say it.
	if v, ok := values["values"].(map[string]any); ok {
		delete(values, "values")
		merge(values, v)
	}
	for _, key := range []string{"components", "profile", "spec"} {
		if _, ok := values[key]; ok {
			return nil, refused(key, "this is a field of istioctl's IstioOperator; say --profile, or a value of the chart (`weir install --dry-run` shows what comes of it)")
		}
	}
	var notices []string
	for _, o := range olds {
		v, ok := take(values, o.key)
		if !ok {
			continue
		}
		if _, isMap := v.(map[string]any); !isMap && v != nil && !slices.Contains(words, o.key) && !says(v) {
			return nil, fmt.Errorf("--set %s: %v is neither true nor false", o.key, v)
		}
		notice, err := o.then(values, v)
		if err != nil {
			return nil, err
		}
		if notice != "" {
			notices = append(notices, notice)
		}
	}
	return notices, nil
}

// mostTTL is ca.MaxTTL.
const mostTTL = 90 * 24 * time.Hour

// combined refuses values that say something together that cannot be.
func combined(values map[string]any) error {
	ca, _ := values["ca"].(map[string]any)
	signer, text := ca["signer"].(string)
	domain, path, _ := strings.Cut(signer, "/")
	pilot, _ := values["pilot"].(map[string]any)
	env, _ := pilot["env"].(map[string]any)
	for _, name := range []string{"EXTERNAL_CA", "K8S_SIGNER"} {
		if _, ok := env[name]; ok {
			return refused("pilot.env."+name, "it would do nothing: say ca.signer=DOMAIN/PATH, and ca.approve=true if nobody else approves (docs/identity.md)")
		}
	}
	least := 24 * time.Hour // of a life that is the longest
	for _, name := range []string{"certTTL", "maxCertTTL"} {
		ttl := ca[name]
		if ttl == nil || ttl == "" {
			continue
		}
		d, err := time.ParseDuration(fmt.Sprint(ttl))
		if err != nil || d <= 0 || d > mostTTL {
			return refused(fmt.Sprintf("ca.%s=%v", name, ttl), fmt.Sprintf("want a time like 48h, of at most %gh", mostTTL.Hours()))
		}
		if name == "certTTL" {
			least = d
		} else if d < least {
			return refused(fmt.Sprintf("ca.%s=%v", name, ttl), fmt.Sprintf("it is less than a certificate lives by itself, %s: say a shorter ca.certTTL", least))
		}
	}
	for _, p := range [][2]string{{"DEFAULT_WORKLOAD_CERT_TTL", "ca.certTTL"}, {"MAX_WORKLOAD_CERT_TTL", "ca.maxCertTTL"}} {
		if v, ok := env[p[0]]; ok {
			return refused("pilot.env."+p[0], fmt.Sprintf("it would do nothing: say %s=%v", p[1], v))
		}
	}
	switch {
	case !text && ca["signer"] != nil:
		return refused("ca.signer", fmt.Sprintf("%v is no text; signers are called DOMAIN/PATH", ca["signer"]))
	case signer == "" && ca["approve"] == true:
		return refused("ca.approve=true", "there is nothing to approve without ca.signer: say ca.signer=DOMAIN/PATH, too, or leave it out")
	case signer == "":
		return nil
	case !strings.Contains(domain, ".") || path == "":
		return refused("ca.signer="+signer, "signers are called DOMAIN/PATH, for example clusterissuers.cert-manager.io/mesh")
	case domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io"):
		return refused("ca.signer="+signer, "the signers of Kubernetes itself certify its own components and no workloads; name one that you run, for example clusterissuers.cert-manager.io/mesh")
	}
	return nil
}

// unknown refuses keys that the chart does not read. known is what the chart has at at.
func unknown(chart, known, asked map[string]any, at string) error {
	for _, k := range slices.Sorted(maps.Keys(asked)) {
		p := strings.TrimPrefix(at+"."+k, ".")
		def, ok := known[k]
		if !ok {
			return nowhere(chart, known, at, k, asked[k])
		}
		d, isMap := def.(map[string]any)
		a, asMap := asked[k].(map[string]any)
		switch {
		case isMap && !asMap && asked[k] != nil && len(d) > 0 && !slices.Contains(open, p):
			return fmt.Errorf("--set %s: it has fields of its own: %s", p, strings.Join(slices.Sorted(maps.Keys(d)), ", "))
		case isMap && !asMap && asked[k] != nil:
			return fmt.Errorf("--set %s: it has fields of its own, and %v is a value", p, asked[k])
		case slices.Contains(open, p):
		case !isMap && asMap && def != nil:
			return fmt.Errorf("--set %s: it is a value and has no field %s", p, slices.Sorted(maps.Keys(a))[0])
		case number(def) && !number(asked[k]) && asked[k] != nil:
			return fmt.Errorf("--set %s: %v is no number; the chart has %v", p, asked[k], def)
		case boolean(def) && !boolean(asked[k]) && asked[k] != nil:
			return fmt.Errorf("--set %s: %v is neither true nor false", p, asked[k])
		case isMap && len(d) > 0 && !freeForm(k):
			if err := unknown(chart, d, a, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// number and boolean say what a value is, as YAML and KEY=VALUE are read.
func number(v any) bool {
	switch v.(type) {
	case int, int64, float64:
		return true
	}
	return false
}

func boolean(v any) bool { _, is := v.(bool); return is }

// freeForm are maps of Kubernetes' own.
func freeForm(key string) bool {
	return slices.Contains([]string{"resources", "env", "annotations", "labels", "nodeSelector", "defaultNodeSelector", "affinity", "autoscaleBehavior", "podAnnotations", "injectedAnnotations"}, key)
}

// says reports whether a value is true or false, as --set-string and quotes may have it, too.
func says(v any) bool { return v == true || v == false || v == "true" || v == "false" || v == "" }

func truth(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case string:
		b, _ := strconv.ParseBool(v)
		return b
	}
	return false
}

// take removes the value at a dotted path.
func take(m map[string]any, path string) (any, bool) {
	head, rest, deeper := strings.Cut(path, ".")
	v, ok := m[head]
	if !ok {
		return nil, false
	}
	if !deeper {
		delete(m, head)
		return v, true
	}
	sub, ok := v.(map[string]any)
	if !ok {
		return nil, false
	}
	v, ok = take(sub, rest)
	if ok && len(sub) == 0 {
		delete(m, head)
	}
	return v, ok
}

func put(m map[string]any, path string, v any) {
	head, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		m[head] = v
		return
	}
	sub, ok := m[head].(map[string]any)
	if !ok {
		sub = map[string]any{}
		m[head] = sub
	}
	put(sub, rest, v)
}

// merge puts what src has over dst.
func merge(dst, src map[string]any) {
	for k, v := range src {
		if s, ok := v.(map[string]any); ok {
			if d, ok := dst[k].(map[string]any); ok {
				merge(d, s)
				continue
			}
		}
		dst[k] = v
	}
}

// withoutNulls leaves out what is null: so a default is taken away, as with Helm.
func withoutNulls(values map[string]any) {
	for k, v := range values {
		switch v := v.(type) {
		case nil:
			delete(values, k)
		case map[string]any:
			withoutNulls(v)
		}
	}
}
