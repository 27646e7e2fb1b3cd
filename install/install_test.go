package install

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

func render(t *testing.T, s Settings) *Release {
	t.Helper()
	r, err := Render(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// An object with a misspelt field is accepted by a cluster, and means something else.
func TestWhatIsMadeIsWhatKubernetesKnows(t *testing.T) {
	strict := kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, kjson.SerializerOptions{Strict: true})
	for _, set := range [][]string{nil, {"compatibilityVersion=1.0"}, {"global.network=n1", "global.meshID=m", "global.priorityClassName=p", "global.imagePullSecrets[0]=s", "pilot.env.A=b",
		"gateways.istio-ingressgateway.env.ISTIO_META_NETWORK=n2", "gateways.istio-ingressgateway.externalIPs[0]=10.0.0.1", "meshConfig.trustDomain=td", "sidecarInjectorWebhook.enableNamespacesByDefault=true",
		"pilot.nodeSelector.a=b", "gateways.istio-ingressgateway.loadBalancerIP=10.0.0.1", "gateways.istio-ingressgateway.annotations.a=b"},
		{"cni.enabled=true", "cni.taint.enabled=true", "cni.repair.repairPods=false", "cni.repair.deletePods=true", "cni.cniConfFileName=a.conflist", "cni.env.A=b", "cni.seLinuxOptions.type=spc_t",
			"cni.nodeSelector.a=b", "cni.podAnnotations.a=b", "global.imagePullSecrets[0]=s", "global.priorityClassName=system-node-critical"}} {
		for _, profile := range Profiles() {
			r := render(t, Settings{Profile: profile, Set: set, Namespace: "mesh", Release: "r1"})
			for _, o := range r.Objects {
				name := profile + " " + o.GetKind() + " " + o.GetName()
				if o.GetLabels()[Owner] != "r1" || o.GetLabels()["app.kubernetes.io/part-of"] != "istio" {
					t.Errorf("%s: labels %v do not say whose it is", name, o.GetLabels())
				}
				if ns := o.GetNamespace(); ns != "mesh" && (ns != "" || !slices.Contains([]string{"ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}, o.GetKind())) {
					t.Errorf("%s: in namespace %q", name, ns)
				}
				if strings.HasSuffix(o.GroupVersionKind().Group, "istio.io") {
					continue
				}
				b, err := json.Marshal(o)
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := strict.Decode(b, nil, nil); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

// The definitions are Istio's, to the byte but for the labels.
func TestDefinitionsAreThoseOfTheLibrary(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "istio.io/api").Output()
	if err != nil {
		t.Skip("no go command: ", err)
	}
	want, err := os.ReadFile(strings.TrimSpace(string(dir)) + "/kubernetes/customresourcedefinitions.gen.yaml")
	if err != nil {
		t.Skip("not in the module cache: ", err)
	}
	got, err := files.ReadFile("chart/crds/istio.yaml")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("chart/crds/istio.yaml is not the file of istio.io/api in go.mod: copy it again (%v)", err)
	}
	for set, want := range map[string]int{"crds=true": 15, "crds=false": 0} {
		if crds, err := render(t, Settings{Set: []string{set}}).CRDs(); err != nil || len(crds) != want {
			t.Errorf("%s: %d definitions, %v", set, len(crds), err)
		}
	}
}

// Every setting named by the guides to Istio 1.0 and 1.1 is honoured, mapped with a notice,
// or refused with a sentence.
func TestSettingsOfOldCharts(t *testing.T) {
	for _, c := range []struct {
		set    string
		says   string // in a notice, or
		refuse string // in the error
		object string // has
		text   string
		gone   string // object that is not made
	}{
		{set: "global.mtls.enabled=true", says: "PeerAuthentication", object: "PeerAuthentication/default", text: `"mode":"STRICT"`},
		{set: "global.mtls.enabled=false", says: "PeerAuthentication", object: "PeerAuthentication/default", text: `"mode":"PERMISSIVE"`},
		{set: "global.enableTracing=false", object: "ConfigMap/istio", text: `enableTracing: false`},
		{set: "security.selfSigned=false", says: "Secret cacerts"},
		{set: "security.selfSigned=true"},
		{set: "mixer.telemetry.enabled=false"},
		{set: "mixer.policy.enabled=false"},
		{set: "mixer.policy.enabled=true", refuse: "AuthorizationPolicy"},
		{set: "global.useMCP=false"},
		{set: "global.useMCP=true", refuse: "Galley"},
		{set: "global.controlPlaneSecurityEnabled=true"},
		{set: "global.controlPlaneSecurityEnabled=false", says: "compatibilityVersion=1.0"},
		{set: "gateways.istio-egressgateway.enabled=true", object: "Deployment/istio-egressgateway", text: "router"},
		{set: "gateways.istio-egressgateway.enabled=false", gone: "Deployment/istio-egressgateway"},
		{set: "global.meshExpansion.enabled=true", refuse: "outside the cluster"},
		{set: "global.meshExpansion.enabled=false"},
		{set: "global.meshNetworks.n2.endpoints[0].fromRegistry=remote", object: "ConfigMap/istio", text: "fromRegistry: remote"},
		{set: "gateways.enabled=true", object: "Deployment/istio-ingressgateway", text: "router"},
		{set: "gateways.enabled=false", gone: "Deployment/istio-ingressgateway"},
		{set: "gateways.istio-ingressgateway.enabled=true", object: "Deployment/istio-ingressgateway", text: "router"},
		{set: "global.createRemoteSvcEndpoints=true", refuse: "another cluster"},
		{set: "global.remotePilotCreateSvcEndpoint=true", says: "global.remotePilotAddress"},
		{set: "global.remotePilotAddress=10.0.0.1", object: "EndpointSlice/istiod", text: `"addresses":["10.0.0.1"]`},
		{set: "global.remotePilotAddress=fd00::1", object: "EndpointSlice/istiod", text: `"addressType":"IPv6"`},
		{set: "global.remotePilotAddress=10.0.0.1", gone: "Deployment/istiod"},
		{set: "global.remotePilotAddress=10.0.0.1", gone: "Service/istio-pilot"},
		{set: "global.remotePilotAddress=istiod.example.com", refuse: "is no IP address"},
		{set: "global.disablePolicyChecks=true", says: "no policy checks"},
		{set: "global.policyCheckFailOpen=true", says: "no policy checks"},
		{set: "gateways.istio-ingressgateway.env.ISTIO_META_NETWORK=network2", object: "Deployment/istio-ingressgateway", text: `{"name":"ISTIO_META_NETWORK","value":"network2"}`},
		{set: "global.network=network2", object: "ConfigMap/istio-sidecar-injector", text: `\"network\":\"network2\"`},
		{set: "values.global.meshID=mesh1", object: "ConfigMap/istio-sidecar-injector", text: `\"meshID\":\"mesh1\"`},
		{set: "values.global.multiCluster.clusterName=c1", object: "Deployment/istiod", text: "--cluster-id=c1"},
		{set: "profile=remote", refuse: "--profile"},
		{set: "istiodRemote.enabled=true", refuse: "another cluster"},
		{set: "compatibilityVersion=1.0", object: "Deployment/istiod", text: "--plaintext=:15010"},
		{set: "compatibilityVersion=1.0", object: "Deployment/istiod", text: "--compatibility-version=1.0"},
		{set: "compatibilityVersion=1", object: "Deployment/istiod", text: "--compatibility-version=1.0"},
		{set: "compatibilityVersion=1.31", object: "Deployment/istiod", text: "--compatibility-version=1.31"},
		{set: "ca.signer=clusterissuers.cert-manager.io/mesh", object: "Deployment/istiod", text: `"--ca-signer=clusterissuers.cert-manager.io/mesh","--ca-approve=false"`},
		{set: "ca.signer=clusterissuers.cert-manager.io/mesh,ca.approve=true", object: "Deployment/istiod", text: `"--ca-signer=clusterissuers.cert-manager.io/mesh","--ca-approve=true"`},
		{set: "ca.signer=clusterissuers.cert-manager.io/mesh", object: "ClusterRole/istiod-istio-system", text: `{"apiGroups":["certificates.k8s.io"],"resources":["certificatesigningrequests"],"verbs":["create","get","delete"]}`},
		{set: "ca.signer=example.com/mesh,ca.approve=true", object: "ClusterRole/istiod-istio-system", text: `{"apiGroups":["certificates.k8s.io"],"resourceNames":["example.com/mesh"],"resources":["signers"],"verbs":["approve"]}`},
		{set: "ca.certTTL=4h", object: "Deployment/istiod", text: `"--cert-ttl=4h"`},
		{set: "pilot.env.DEFAULT_WORKLOAD_CERT_TTL=4h", refuse: "say ca.certTTL"},
		{set: "ca.certTTL=4", refuse: "want a time like 48h"},
		{set: "ca.serviceAccountTokens=false", object: "Deployment/istiod", text: `"--service-account-tokens=false"`},
		{set: "ca.serviceAccountTokens=perhaps", refuse: "neither true nor false"},
		{set: "pilot.keysAllow=169.254.20.10/32", object: "Deployment/istiod", text: `"--keys-allow=169.254.20.10/32"`},
		{set: "ca.maxCertTTL=48h", object: "Deployment/istiod", text: `"--max-cert-ttl=48h"`},
		{set: "ca.certTTL=4h,ca.maxCertTTL=5h", object: "Deployment/istiod", text: `"--cert-ttl=4h","--max-cert-ttl=5h"`},
		{set: "ca.maxCertTTL=4h", refuse: "say a shorter ca.certTTL"},
		{set: "ca.maxCertTTL=2161h", refuse: "at most 2160h"},
		{set: "pilot.env.MAX_WORKLOAD_CERT_TTL=48h", refuse: "say ca.maxCertTTL=48h"},
		{set: "ca.certTTL=2161h", refuse: "at most 2160h"},
		{set: "ca.approve=true", refuse: "nothing to approve without ca.signer"},
		{set: "ca.approve=perhaps", refuse: "neither true nor false"},
		{set: "ca.signer=mesh", refuse: "DOMAIN/PATH"},
		{set: "ca.signer=example.com/", refuse: "DOMAIN/PATH"},
		{set: "ca.signer=3", refuse: "3 is no text"},
		{set: "ca.signer=true", refuse: "true is no text"},
		{set: "ca.signer=kubernetes.io/kube-apiserver-client", refuse: "no workloads"},
		{set: "ca.signer.name=x", refuse: "has no field name"},
		{set: "pilot.env.EXTERNAL_CA=ISTIOD_RA_KUBERNETES_API", refuse: "say ca.signer"},
		{set: "pilot.env.K8S_SIGNER=example.com/mesh", refuse: "say ca.signer"},
		{set: "global.pilotCertProvider=istiod"},
		{set: "global.pilotCertProvider=k8s.io/clusterissuers.cert-manager.io/mesh", refuse: "ca.signer=clusterissuers.cert-manager.io/mesh"},
		{set: "prometheus.enabled=true", refuse: "not part"},
		{set: "prometheus.enabled=false"},
		{set: "global.hubb=x", refuse: "did you mean global.hub?"},
		{set: "nonsense=1", refuse: "no such value"},
		{set: "pilot.resources.limits.memory=1Gi", object: "Deployment/istiod", text: `"memory":"1Gi"`},
		{set: "pilot=3", refuse: "fields of its own"},
		{set: "global.hub.x=3", refuse: "has no field x"},
		{set: "pilot.replicaCount=two", refuse: "two is no number"},
		{set: "validation.enabled=perhaps", refuse: "neither true nor false"},
		{set: "meshConfig.outboundTrafficPolicy.mode=REGISTRY_ONLY", object: "ConfigMap/istio", text: "mode: REGISTRY_ONLY"},
		{set: "meshConfig=3", refuse: "3 is a value"},
		{set: "pilot.env=3", refuse: "3 is a value"},
		{set: "global.mtls.enabled=perhaps", refuse: "perhaps is neither true nor false"},
		{set: "global.mtls.enabled=1", refuse: "1 is neither true nor false"},
		{set: "global.trustDomain=example.org", object: "ConfigMap/istio", text: "trustDomain: example.org"},
		{set: "novalue", refuse: "KEY=VALUE"},
		{set: "pilot.autoscaleEnabled=true", object: "HorizontalPodAutoscaler/istiod", text: `"minReplicas":2`},
		{set: "pilot.autoscaleEnabled=true", object: "PodDisruptionBudget/istiod", text: `"minAvailable":1`},
		{set: "pilot.autoscaleEnabled=false", gone: "HorizontalPodAutoscaler/istiod"},
		{set: "pilot.autoscaleMax=four", refuse: "four is no number"},
		{set: "gateways.istio-ingressgateway.cpu.targetAverageUtilization=60"},
		{set: "pilot.replicaCount=1", gone: "PodDisruptionBudget/istiod"},
		{set: "pilot.replicaCount=2", object: "PodDisruptionBudget/istiod", text: `"app":"istiod"`},
		{set: "gateways.istio-ingressgateway.replicaCount=3", object: "PodDisruptionBudget/istio-ingressgateway", text: `"istio":"ingressgateway"`},
		{set: "global.defaultPodDisruptionBudget.enabled=false", gone: "PodDisruptionBudget/istiod"},
		{set: "global.defaultNodeSelector.pool=mesh", object: "Deployment/istio-ingressgateway", text: `"nodeSelector":{"pool":"mesh"}`},
		{set: "global.defaultTolerations[0].operator=Exists", object: "Deployment/istiod", text: `"tolerations":[{"operator":"Exists"}]`},
		{set: "pilot.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1", object: "Deployment/istiod", text: `"weight":1`},
		{set: "global.priorityClassName=system-cluster-critical", object: "ResourceQuota/weir-critical-pods", text: "system-cluster-critical"},
		{set: "cni.enabled=true", object: "DaemonSet/istio-cni-node", text: `"--repair=repair"`},
		{set: "cni.enabled=true", object: "ConfigMap/istio-sidecar-injector", text: `\"cni\":{\"enabled\":true}`},
		{set: "cni.enabled=true", object: "ResourceQuota/weir-critical-pods", text: "system-node-critical"},
		{set: "cni.enabled=false", gone: "DaemonSet/istio-cni-node", object: "ConfigMap/istio-sidecar-injector", text: `\"cni\":{\"enabled\":false}`},
		{set: "pilot.cni.enabled=true", says: "becomes cni.enabled", object: "DaemonSet/istio-cni-node", text: "weir-cni"},
		{set: "istio_cni.enabled=true", says: "becomes cni.enabled", object: "DaemonSet/istio-cni-node", text: "weir-cni"},
		{set: "pilot.cni.enabled=false", gone: "DaemonSet/istio-cni-node"},
		{set: "cni.chained=false", refuse: "comes behind the one that does"},
		{set: "global.priorityClassName=mine", gone: "ResourceQuota/weir-critical-pods", object: "Deployment/istiod", text: `"priorityClassName":"mine"`},
	} {
		t.Run(c.set, func(t *testing.T) {
			r, err := Render(Settings{Set: []string{c.set}})
			if err != nil {
				if c.refuse == "" || !strings.Contains(err.Error(), c.refuse) {
					t.Errorf("refused: %v; want %q", err, c.refuse)
				}
				return
			}
			if c.refuse != "" {
				t.Errorf("not refused")
			}
			if notices := strings.Join(r.Notices, "\n"); (c.says == "") != (notices == "") || !strings.Contains(notices, c.says) {
				t.Errorf("notices %q, want %q", notices, c.says)
			}
			object := func(name string) *unstructured.Unstructured {
				i := slices.IndexFunc(r.Objects, func(o *unstructured.Unstructured) bool { return o.GetKind()+"/"+o.GetName() == name })
				if i < 0 {
					return nil
				}
				return r.Objects[i]
			}
			if c.object != "" {
				if o := object(c.object); o == nil {
					t.Errorf("no %s", c.object)
				} else if b, err := json.Marshal(o); err != nil || !strings.Contains(string(b), c.text) {
					t.Errorf("%s has no %s: %s %v", c.object, c.text, b, err)
				}
			}
			if c.gone != "" && object(c.gone) != nil {
				t.Errorf("%s is made", c.gone)
			}
		})
	}
}

// AppArmor lets the node agent do its work in the words that the cluster knows.
func TestAppArmor(t *testing.T) {
	for kube, want := range map[string]string{"v1.29.3": "container.apparmor.security.beta.kubernetes.io/install-cni", "v1.34.4": `"appArmorProfile":{"type":"Unconfined"}`} {
		for _, o := range render(t, Settings{Set: []string{"cni.enabled=true"}, Kube: kube}).Objects {
			b, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			if o.GetKind() == "DaemonSet" && (!strings.Contains(string(b), want) || strings.Count(strings.ToLower(string(b)), "apparmor") != 1) {
				t.Errorf("%s: %s", kube, b)
			}
		}
	}
}

// Where pods go, how many there are, and who says so.
func TestAvailability(t *testing.T) {
	spec := func(o *unstructured.Unstructured, at ...string) string {
		v, _, err := unstructured.NestedFieldNoCopy(o.Object, append([]string{"spec"}, at...)...)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, o := range render(t, Settings{Profile: "production"}).Objects {
		switch o.GetKind() {
		case "Deployment":
			if r := spec(o, "replicas"); r != "null" {
				t.Errorf("%s: replicas %s would take pods away from the autoscaler with every installation", o.GetName(), r)
			}
			if s := spec(o, "template", "spec", "topologySpreadConstraints"); !strings.Contains(s, `"topologyKey":"kubernetes.io/hostname"`) || !strings.Contains(s, `"matchLabelKeys":["pod-template-hash"]`) || !strings.Contains(s, `"app":"`+o.GetName()) ||
				strings.Contains(s, "zone") { // which many clusters have none of: their nodes would not be spread over at all

				t.Errorf("%s: spread by %s", o.GetName(), s)
			}
			if s := spec(o, "template", "spec", "affinity"); !strings.Contains(s, "topology.kubernetes.io/zone") || !strings.Contains(s, "preferredDuringScheduling") || !strings.Contains(s, `"app":"`+o.GetName()) {
				t.Errorf("%s: zones by %s", o.GetName(), s)
			}
		case "HorizontalPodAutoscaler":
			if n := spec(o, "scaleTargetRef", "name"); n != `"`+o.GetName()+`"` {
				t.Errorf("%s scales %s", o.GetName(), n)
			}
		}
	}
	if _, err := Render(Settings{Set: []string{"pilot.autoscaleEnabled=true", "pilot.autoscaleMax=1"}}); err == nil || !strings.Contains(err.Error(), "istiod: autoscaleMax (1) is less than autoscaleMin (2)") {
		t.Errorf("fewer at most than at least: %v", err)
	}
}

// What can read every secret of a cluster owns it, and so does what can approve the certificates of administrators. Without a signer
// there is nothing about certificates at all, and nobody approves who was not asked to.
func TestLeastPrivilege(t *testing.T) {
	for set, never := range map[string]string{"ca.signer=": "certificates.k8s.io", "ca.signer=example.com/mesh": "approv", "ca.signer=example.com/mesh,ca.approve=true": `"apiGroups":["certificates.k8s.io"],"resources":["signers"]`} {
		leastPrivilege(t, render(t, Settings{Profile: "demo", Set: []string{set}}).Objects, never)
	}
}

func leastPrivilege(t *testing.T, objects []*unstructured.Unstructured, never string) {
	t.Helper()
	for _, o := range objects {
		if o.GetKind() != "ClusterRole" {
			continue
		}
		rules, _, _ := unstructured.NestedSlice(o.Object, "rules")
		for _, r := range rules {
			b, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if s := string(b); strings.Contains(s, `"secrets"`) || strings.Contains(s, `"verbs":["*"]`) || strings.Contains(s, `"apiGroups":["*"]`) || strings.Contains(s, "bind") || strings.Contains(s, "escalate") || strings.Contains(s, never) {
				t.Errorf("%s: %s", o.GetName(), s)
			}
		}
	}
}

// Later settings win over earlier ones, those of the command line over files, files over
// the profile, and the profile over the chart.
func TestWhatWins(t *testing.T) {
	r := render(t, Settings{Profile: "minimal", Files: [][]byte{[]byte("global: {hub: one, tag: t1}"), []byte("global: {hub: two}\ngateways: {istio-egressgateway: {enabled: true}}")}, Set: []string{"global.tag=t2"}})
	var got []string
	for _, o := range r.Objects {
		if o.GetKind() != "Deployment" {
			continue
		}
		containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
		got = append(got, containers[0].(map[string]any)["image"].(string))
	}
	if want := []string{"two/weir-control:t2", "two/weir-proxy:t2"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if _, err := Render(Settings{Profile: "big"}); err == nil || !strings.Contains(err.Error(), "default, demo, minimal") {
		t.Errorf("a profile that is not there: %v", err)
	}
}

// The chart is of the version that builds have: who installs it with Helm, and names no tag, gets the images of that version.
func TestVersionOfTheChart(t *testing.T) {
	version, err := os.ReadFile("../VERSION")
	if err != nil {
		t.Fatal(err)
	}
	chart, err := os.ReadFile("chart/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c struct{ Version, AppVersion string }
	if err := yaml.Unmarshal(chart, &c); err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(string(version)); c.Version != want || c.AppVersion != want {
		t.Errorf("chart/Chart.yaml: version %s, appVersion %s; VERSION says %s", c.Version, c.AppVersion, want)
	}
}
