"""The launchers, a file each; what one needs beside it stands in the folder of its name, for both of Megatron's in megatron/."""
