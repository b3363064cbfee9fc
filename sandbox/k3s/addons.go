package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

//go:embed addons
var packaged embed.FS

// addons applies server/manifests, the packaged components among them, and follows changes.
type addons struct {
	cluster  *cluster
	objects  dynamic.Interface
	mapper   *restmapper.DeferredDiscoveryRESTMapper
	applied  map[string]string // file -> digest of what was last applied
	reported map[string]string // file -> last error told
}

func newAddons(c *cluster, config *rest.Config) (*addons, error) {
	// The packaged objects come in one burst; the default of 5 a second would stretch it.
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 100, 200
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &addons{
		cluster: c, objects: objects,
		mapper:  restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client)),
		applied: map[string]string{}, reported: map[string]string{},
	}, nil
}

// component is the name that `disable:` knows a packaged file by.
func component(path string) string {
	first, _, _ := strings.Cut(filepath.ToSlash(path), "/")
	return strings.TrimSuffix(first, ".yaml")
}

// writePackaged puts the packaged manifests where k3s keeps them, and takes away disabled ones.
func (a *addons) writePackaged(ctx context.Context) error {
	disabled := a.cluster.all("disable", "")
	for _, name := range disabled {
		if !slices.Contains([]string{"coredns", "local-storage", "metrics-server", "traefik", "servicelb", "runtimes"}, name) {
			log.Printf("warning: disable: %q is not a packaged component", name)
		}
	}
	storage := a.cluster.get("default-local-storage-path", filepath.Join(a.cluster.layout.data, "storage"))
	variables := strings.NewReplacer(
		"%{CLUSTER_DNS}%", a.cluster.dnsIP.String(),
		"%{CLUSTER_DOMAIN}%", a.cluster.domain,
		"%{DEFAULT_LOCAL_STORAGE_PATH}%", storage,
	)
	return fs.WalkDir(packaged, "addons", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative := strings.TrimPrefix(path, "addons/")
		target := filepath.Join(a.cluster.layout.manifests(), relative)
		raw, err := packaged.ReadFile(path)
		if err != nil {
			return err
		}
		content := []byte(variables.Replace(string(raw)))
		if slices.Contains(disabled, component(relative)) {
			return a.remove(ctx, target, content)
		}
		if skipped(target) {
			return nil
		}
		return writeFile(target, content, 0o600)
	})
}

// remove uninstalls a disabled component that an earlier start had installed.
func (a *addons) remove(ctx context.Context, file string, content []byte) error {
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	log.Printf("removing the disabled component %s", filepath.Base(file))
	objects, err := decodeObjects(content)
	if err != nil {
		return err
	}
	for index := len(objects) - 1; index >= 0; index-- {
		target, err := a.resource(objects[index])
		if err == nil {
			background := metav1.DeletePropagationBackground
			err = target.Delete(ctx, objects[index].GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return os.Remove(file)
}

func skipped(file string) bool {
	_, err := os.Stat(file + ".skip")
	return err == nil
}

// run applies every manifest whose content changed, until the end. Files that fail are tried
// again each round: what they need may come with another file.
func (a *addons) run(ctx context.Context) {
	for {
		if err := a.applyChanged(ctx); err != nil && ctx.Err() == nil {
			log.Printf("warning: manifests: %v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Second):
		}
	}
}

func (a *addons) applyChanged(ctx context.Context) error {
	return filepath.WalkDir(a.cluster.layout.manifests(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		extension := filepath.Ext(path)
		if !slices.Contains([]string{".yaml", ".yml", ".json"}, extension) || skipped(path) || ctx.Err() != nil {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sum := digest(content)
		if a.applied[path] == sum {
			return nil
		}
		if err := a.applyFile(ctx, content); err != nil {
			if a.reported[path] != err.Error() && ctx.Err() == nil {
				log.Printf("error: manifest %s: %v (tried again every 2 s)", path, err)
				a.reported[path] = err.Error()
			}
			return nil
		}
		a.applied[path] = sum
		delete(a.reported, path)
		log.Printf("applied %s", path)
		return nil
	})
}

func (a *addons) applyFile(ctx context.Context, content []byte) error {
	objects, err := decodeObjects(content)
	if err != nil {
		return err
	}
	var problems []error
	for _, object := range objects {
		target, err := a.resource(object)
		var live *unstructured.Unstructured
		if err == nil {
			live, err = target.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: "deploy@" + a.cluster.name, Force: true})
		}
		if err == nil && live.GetDeletionTimestamp() != nil {
			// Applied to something on its way out: it has to be made anew when it is gone.
			err = errors.New("is still being deleted")
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err))
		}
	}
	return errors.Join(problems...)
}

// resource finds where an object lives; a kind that is not known yet makes the next look fresh.
func (a *addons) resource(object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := object.GroupVersionKind()
	mapping, err := a.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		a.mapper.Reset()
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return a.objects.Resource(mapping.Resource), nil
	}
	namespace := object.GetNamespace()
	if namespace == "" {
		namespace = "default"
	}
	return a.objects.Resource(mapping.Resource).Namespace(namespace), nil
}

func decodeObjects(content []byte) ([]*unstructured.Unstructured, error) {
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	var objects []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(object.Object) == 0 {
			continue
		}
		if object.IsList() {
			list, err := object.ToList()
			if err != nil {
				return nil, err
			}
			for index := range list.Items {
				objects = append(objects, &list.Items[index])
			}
			continue
		}
		objects = append(objects, object)
	}
}

// applyFields sets only the given fields of one object, as a manager of its own.
func (a *addons) applyFields(ctx context.Context, kind metav1.TypeMeta, namespace, name string, fields map[string]any) error {
	object := &unstructured.Unstructured{Object: fields}
	object.SetAPIVersion(kind.APIVersion)
	object.SetKind(kind.Kind)
	object.SetName(name)
	object.SetNamespace(namespace)
	target, err := a.resource(object)
	if err != nil {
		return err
	}
	content, err := object.MarshalJSON()
	if err != nil {
		return err
	}
	force := true
	_, err = target.Patch(ctx, name, types.ApplyPatchType, content, metav1.PatchOptions{FieldManager: "k3s-nodes", Force: &force})
	return err
}
